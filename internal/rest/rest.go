// Package rest is a small client of Waybill's REST interface, as a user would
// write one: JSON over HTTP, idempotency keys, server-sent events.
package rest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// A Client speaks to one server, in one user's name if it has a token.
type Client struct {
	Base  string // "http://127.0.0.1:8080"
	Token string // access token, or ""
	HTTP  *http.Client
}

// As gives a client that speaks in another user's name.
func (c *Client) As(token string) *Client {
	d := *c
	d.Token = token
	return &d
}

// An Error is an answer that is no success.
type Error struct {
	Status  int    // of HTTP
	Code    string // of gRPC, "NOT_FOUND"
	Reason  string // of the first ErrorInfo, "ORDER_NOT_FOUND"
	Message string
	Body    []byte // all of it
}

// Error gives the message with its codes.
func (e *Error) Error() string {
	if e.Reason != "" {
		return fmt.Sprintf("%s (%d %s)", e.Message, e.Status, e.Reason)
	}
	return fmt.Sprintf("%s (%d)", e.Message, e.Status)
}

// Do sends in as JSON, if it is not nil, and reads the answer into out. A
// non-empty key is sent as the Idempotency-Key. An answer that is no success is
// an *Error.
func (c *Client) Do(ctx context.Context, method, path, key string, in, out proto.Message) error {
	var body io.Reader
	if in != nil {
		data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := c.request(ctx, method, path, body)
	if err != nil {
		return err
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return failure(resp.StatusCode, data)
	}
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, out)
}

func (c *Client) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	return req, nil
}

func failure(status int, body []byte) error {
	e := &Error{Status: status, Message: http.StatusText(status), Body: body}
	var s struct {
		Message string `json:"message"`
		Status  string `json:"status"`
		Details []struct {
			Reason string `json:"reason"`
		} `json:"details"`
	}
	if json.Unmarshal(body, &s) == nil && s.Message != "" {
		e.Message, e.Code = s.Message, s.Status
		for _, d := range s.Details {
			if d.Reason != "" {
				e.Reason = d.Reason
				break
			}
		}
	}
	return e
}

// An Event is one server-sent event.
type Event struct {
	ID   string // resume point: send it as lastID to go on after this event
	Name string // "message" unless the server says otherwise
	Data []byte
}

// ErrStreamError wraps what a stream ends with when the server cannot go on.
var ErrStreamError = errors.New("the server ended the stream with an error")

// Follow reads server-sent events and calls fn for each message until fn returns
// false, the stream ends, or ctx does. It gives the id of the last event.
func (c *Client) Follow(ctx context.Context, path, lastID string, fn func(Event) (more bool, err error)) (string, error) {
	req, err := c.request(ctx, http.MethodGet, path, nil)
	if err != nil {
		return lastID, err
	}
	req.Header.Set("Accept", "text/event-stream")
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return lastID, err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		data, _ := io.ReadAll(resp.Body)
		return lastID, failure(resp.StatusCode, data)
	}
	scan := bufio.NewScanner(resp.Body)
	scan.Buffer(nil, 4<<20)
	ev := Event{Name: "message"}
	for scan.Scan() {
		line := scan.Text()
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			if len(ev.Data) > 0 {
				if ev.ID != "" {
					lastID = ev.ID
				}
				switch ev.Name {
				case "error":
					return lastID, fmt.Errorf("%w: %s", ErrStreamError, ev.Data)
				case "message":
					if more, err := fn(ev); err != nil || !more {
						return lastID, err
					}
				}
			}
			ev = Event{Name: "message"}
		case field == "id":
			ev.ID = value
		case field == "event":
			ev.Name = value
		case field == "data":
			if len(ev.Data) > 0 {
				ev.Data = append(ev.Data, '\n')
			}
			ev.Data = append(ev.Data, value...)
		}
	}
	return lastID, scan.Err()
}
