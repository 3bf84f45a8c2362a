package gateway

import (
	"fmt"
	"slices"
	"strings"
)

// node is a place in the tree of paths: one step down for each segment. A
// literal goes before a variable, as in /v1/products/new and /v1/products/{product_id}.
type node struct {
	literal  map[string]*node
	variable *node
	ends     map[string][]*route // by verb, "" for none: the routes that end here, one per method
}

func newNode() *node { return &node{literal: map[string]*node{}, ends: map[string][]*route{}} }

// add puts a route into the tree. It fails if the path has a form the tree does
// not know (wildcards inside a variable), or is taken.
func (n *node) add(r *route) error {
	if strings.Contains(r.path, "*") {
		return fmt.Errorf("the path %s has a wildcard", r.path)
	}
	for _, s := range r.segments {
		next := n.variable
		if s != "" {
			next = n.literal[s]
		}
		if next == nil {
			next = newNode()
			if s == "" {
				n.variable = next
			} else {
				n.literal[s] = next
			}
		}
		n = next
	}
	for _, other := range n.ends[r.verb] {
		if other.httpMethod == r.httpMethod {
			return fmt.Errorf("%s %s is the path of %s too", r.httpMethod, r.path, other.rpc)
		}
	}
	n.ends[r.verb] = append(n.ends[r.verb], r)
	return nil
}

// find gives the routes of a path, one per method, and the values of its
// variables in their order. The text after the last colon is the verb if a path has
// that verb; otherwise it belongs to the value.
func (n *node) find(path string, values []string) ([]*route, []string) {
	path, ok := strings.CutPrefix(path, "/")
	if !ok {
		return nil, nil
	}
	return n.walk(path, values)
}

func (n *node) walk(path string, values []string) ([]*route, []string) {
	segment, rest, more := strings.Cut(path, "/")
	if more {
		if next := n.literal[segment]; next != nil {
			if found, vs := next.walk(rest, values); found != nil {
				return found, vs
			}
		}
		if n.variable != nil && segment != "" {
			return n.variable.walk(rest, append(values, segment))
		}
		return nil, nil
	}
	if i := strings.LastIndexByte(segment, ':'); i > 0 {
		if found, vs := n.end(segment[:i], segment[i+1:], values); found != nil {
			return found, vs
		}
	}
	return n.end(segment, "", values)
}

// end gives the routes below n whose last segment and verb these are.
func (n *node) end(segment, verb string, values []string) ([]*route, []string) {
	if next := n.literal[segment]; next != nil && next.ends[verb] != nil {
		return next.ends[verb], values
	}
	if n.variable != nil && segment != "" && n.variable.ends[verb] != nil {
		return n.variable.ends[verb], append(values, segment)
	}
	return nil, nil
}

// methods lists the HTTP methods of the routes of a path.
func methods(routes []*route) []string {
	var out []string
	for _, r := range routes {
		out = append(out, r.httpMethod)
		if r.httpMethod == "GET" {
			out = append(out, "HEAD")
		}
	}
	slices.Sort(out)
	return out
}
