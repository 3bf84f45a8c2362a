package bus

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/waybill-dev/waybill/platform/errs"
)

func TestOnlyASequenceIsSuccess(t *testing.T) {
	for name, c := range map[string]struct {
		data, status string
		seq          uint64
		reason       string
	}{
		"stored":                         {data: `{"stream":"A","seq":7}`, seq: 7},
		"stored before":                  {data: `{"stream":"A","seq":7,"duplicate": true}`, seq: 7},
		"batch":                          {data: `{"stream":"A","seq":18446744073709551615,"batch":"x","count":3}`, seq: 1<<64 - 1},
		"other order":                    {data: `{"seq":7,"domain":"hub","stream":"A"}`, seq: 7},
		"with domain":                    {data: `{"stream":"A","domain":"hub","seq":7}`, seq: 7},
		"no stream takes it":             {status: "503", reason: ReasonUnavailable},
		"no answer in the answer":        {reason: ReasonUnavailable},
		"no sequence":                    {data: `{"stream":"A","seq":0}`, reason: ReasonUnavailable},
		"cut off":                        {data: `{"stream":"A","seq":12`, reason: ReasonUnavailable},
		"another's answer":               {data: `OK`, reason: ReasonUnavailable},
		"another stream":                 {data: `{"stream":"AB","seq":7}`, reason: ReasonWrongStream},
		"stream of which it is a prefix": {data: `{"stream":"","seq":7}`, reason: ReasonWrongStream},
		"duplicate still being stored":   {data: `{"error":{"code":409,"err_code":10158,"description":"duplicate message id is in process"},"stream":"A","seq":0}`, reason: ReasonUnavailable},
		"not now":                        {data: `{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"},"stream":"A","seq":0}`, reason: ReasonUnavailable},
		"full":                           {data: `{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"A","seq":0}`, reason: ReasonFull},
		"too large":                      {data: `{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum allowed"},"stream":"A","seq":0}`, reason: ReasonTooLarge},
		"wrong stream":                   {data: `{"error":{"code":400,"err_code":10060,"description":"expected stream does not match"},"stream":"B","seq":0}`, reason: ReasonWrongStream},
	} {
		m := &nats.Msg{Data: []byte(c.data), Header: nats.Header{}}
		if c.status != "" {
			m.Header.Set("Status", c.status)
		}
		seq, err := verdict(m, "A")
		if seq != c.seq || errs.ReasonOf(err) != c.reason || (err == nil) != (c.seq > 0) {
			t.Errorf("%s: got sequence %d, reason %q, error %v", name, seq, errs.ReasonOf(err), err)
		}
	}
}

func FuzzVerdict(f *testing.F) {
	f.Add([]byte(`{"stream":"A","seq":7}`))
	f.Add([]byte(`{"error":{"code":503,"err_code":10077},"stream":"A","seq":9}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		seq, err := verdict(&nats.Msg{Data: data}, "A")
		if (seq == 0) == (err == nil) {
			t.Errorf("%q: sequence %d, error %v", data, seq, err)
		}
	})
}

// fakeMsg is what the client library hands to a consumer, as far as deliveries look at it.
type fakeMsg struct {
	jetstream.Msg
	reply string
}

func (m fakeMsg) Headers() nats.Header {
	return nats.Header{jetstream.MsgIDHeader: {"id"}, "k": {"v", "w"}}
}
func (m fakeMsg) Subject() string { return "s" }
func (m fakeMsg) Data() []byte    { return nil }
func (m fakeMsg) Reply() string   { return m.reply }

func TestDeliveriesReadTheReplySubject(t *testing.T) {
	for reply, ok := range map[string]bool{
		"$JS.ACK.A.reader.3.17.21.1700000000123456789.5":                true,
		"$JS.ACK.hub.ACCHASH.A.reader.3.17.21.1700000000123456789.5":    true,
		"$JS.ACK._.ACCHASH.A.reader.3.17.21.1700000000123456789.5.rand": true,
		"$JS.ACK.A.reader.3.17.21.1700000000123456789":                  false,
		"$JS.ACK.A.reader.x.17.21.1700000000123456789.5":                false,
		"_INBOX.x": false,
		"":         false,
	} {
		d, got := newDelivery(fakeMsg{reply: reply}, "A", nil)
		if got != ok {
			t.Errorf("%q: readable %v, want %v", reply, got, ok)
		}
		if ok && (d.Deliveries != 3 || d.Seq != 17 || d.Pending != 5 || !d.Time.Equal(time.Unix(1700000000, 123456789))) {
			t.Errorf("%q: %+v", reply, d)
		}
		if d.ID != "id" || d.Header("k") != "v" || d.Header("K") != "" {
			t.Errorf("%q: ID %q, header %q", reply, d.ID, d.Header("k"))
		}
		if err := d.Ack(); errs.KindOf(err) != errs.FailedPrecondition {
			t.Errorf("ack without a bus: %v", err)
		}
	}
}
