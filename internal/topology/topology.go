// Package topology is the one list of who calls whom and who says and hears
// what. A process dials nobody it does not name; the permissions of the broker's
// users and the network policies of the chart are made from it, and its test
// holds it against what the services do.
package topology

import (
	"maps"
	"slices"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/outbox"
)

// Gateway is the name of the edge, which has neither a database nor events.
const Gateway = "gateway"

// A Service is one service and its neighbours.
type Service struct {
	Name     string
	Calls    []string            // services it calls, sorted
	Database bool                // it has one, and nobody else reaches it
	Hears    map[string][]string // events it handles, by the service that says them
	Topics   []string            // what its replicas tell each other by bus.Notify
}

// Services lists all of them in the order in which a process starts them.
func Services() []Service {
	all := []Service{
		{Name: "auth", Hears: map[string][]string{"user": {"UserErased"}}},
		{Name: "user", Hears: map[string][]string{"auth": {"UserRegistered", "UserRoleChanged"}}},
		{Name: "inventory", Topics: []string{"stock"}, Hears: map[string][]string{
			"order":   {"OrderPlaced"},
			"payment": {"PaymentAuthorized", "PaymentReversed"},
		}},
		{Name: "payment", Hears: map[string][]string{
			"order":     {"OrderPlaced", "OrderRejected"},
			"inventory": {"StockCommitted", "StockHeld"},
			"shipping":  {"ShipmentCancelled", "ShipmentReturned"},
		}},
		{Name: "shipping", Topics: []string{"shipping"}, Hears: map[string][]string{
			"order":   {"OrderCancelling", "OrderPlaced", "OrderRejected", "OrderReturnRequested"},
			"payment": {"PaymentCaptured"},
			"user":    {"UserErased"},
		}},
		{Name: "order", Topics: []string{"order"}, Calls: []string{"inventory"}, Hears: map[string][]string{
			"inventory": {"StockCommitted", "StockExpired", "StockHeld", "StockRejected", "StockReleased"},
			"payment": {"PaymentAuthorized", "PaymentCaptureFailed", "PaymentCaptured", "PaymentDeclined", "PaymentRefunded", "PaymentReversed",
				"PaymentUnknown"},
			"shipping": {"ShipmentCancelRefused", "ShipmentCancelled", "ShipmentDelivered", "ShipmentDispatched", "ShipmentLost", "ShipmentRefused",
				"ShipmentReturned", "ShipmentScheduled"},
			"user": {"UserErased"},
		}},
	}
	gateway := Service{Name: Gateway}
	for i := range all {
		s := &all[i]
		gateway.Calls = append(gateway.Calls, s.Name)
		s.Database = true
		s.Topics = append(s.Topics, "outbox."+s.Name) // its relay
		if s.Name != "auth" {
			s.Calls = append(s.Calls, "auth") // the keys that sign tokens
		}
		slices.Sort(s.Calls)
		slices.Sort(s.Topics)
	}
	slices.Sort(gateway.Calls)
	return append(all, gateway)
}

// Names lists the services in the order in which a process starts them.
func Names() []string {
	var names []string
	for _, s := range Services() {
		names = append(names, s.Name)
	}
	return names
}

// MayCall tells whether the service named from is declared to call the one
// named to. Each may call itself.
func MayCall(from, to string) bool {
	return from == to || slices.ContainsFunc(Services(), func(s Service) bool { return s.Name == from && slices.Contains(s.Calls, to) })
}

// Broker gives what the service does on the broker; nothing for the gateway.
func (s Service) Broker() bus.Use {
	if !s.Database {
		return bus.Use{}
	}
	use := bus.Use{
		Streams: []bus.Stream{{Name: outbox.Stream(s.Name), Subjects: []string{"waybill." + s.Name + ".>"}}},
		Topics:  s.Topics,
	}
	for _, from := range slices.Sorted(maps.Keys(s.Hears)) {
		c := bus.Consumer{Stream: outbox.Stream(from), Durable: s.Name}
		for _, event := range s.Hears[from] {
			c.Subjects = append(c.Subjects, outbox.Subject("waybill."+from+".v1."+event, "*"))
		}
		slices.Sort(c.Subjects)
		use.Consumers = append(use.Consumers, c)
	}
	return use
}

// A Document is the topology as the chart reads it.
type Document struct {
	Services map[string]Entry `json:"services"`
}

// An Entry is one service in a Document. NATS is nil for one without events.
type Entry struct {
	Calls    []string     `json:"calls"`
	Database bool         `json:"database"`
	NATS     *Permissions `json:"nats"`
}

// Permissions are the subjects of a user of the broker, without its inbox.
type Permissions struct {
	Publish   []string `json:"publish"`
	Subscribe []string `json:"subscribe"`
}

// Describe gives the topology of all services.
func Describe() Document {
	doc := Document{Services: map[string]Entry{}}
	for _, s := range Services() {
		e := Entry{Calls: s.Calls, Database: s.Database}
		if e.Calls == nil {
			e.Calls = []string{}
		}
		if publish, subscribe := s.Broker().Permissions(); len(publish) > 0 {
			e.NATS = &Permissions{publish, subscribe}
		}
		doc.Services[s.Name] = e
	}
	return doc
}
