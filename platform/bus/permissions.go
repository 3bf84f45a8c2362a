package bus

import "slices"

// A Use is what one user does on a broker: the streams it keeps and publishes
// to, the consumers it runs, and the topics it notifies and listens to. Of
// streams and consumers only the names and the streams' subjects count.
type Use struct {
	Streams   []Stream
	Consumers []Consumer
	Topics    []string
}

// Permissions gives the subjects that a user of the broker must be allowed for
// u and no more, without wildcards beyond its own names, sorted. The inbox of
// the user (InboxPrefix, to subscribe to) is not among them. Nothing here
// deletes or purges a stream or a consumer, or reads another's messages by their
// number; what is in one's own stream must be looked at to see that it is all there.
func (u Use) Permissions() (publish, subscribe []string) {
	const api = "$JS.API."
	for _, s := range u.Streams {
		publish = append(publish, s.Subjects...)
		publish = append(publish, api+"STREAM.INFO."+s.Name, api+"STREAM.CREATE."+s.Name, api+"STREAM.UPDATE."+s.Name, api+"STREAM.MSG.GET."+s.Name)
	}
	for _, c := range u.Consumers {
		name := c.Stream + "." + c.Durable
		publish = append(publish, api+"CONSUMER.INFO."+name, api+"CONSUMER.CREATE."+name, api+"CONSUMER.MSG.NEXT."+name, "$JS.ACK."+name+".>")
	}
	for _, t := range u.Topics {
		publish, subscribe = append(publish, notifyPrefix+t), append(subscribe, notifyPrefix+t)
	}
	slices.Sort(publish)
	slices.Sort(subscribe)
	return slices.Compact(publish), slices.Compact(subscribe)
}

// InboxPrefix is where the broker's answers to a user go: allow it to subscribe
// to InboxPrefix(user) + ".>" and nobody else can read them. Without a user all
// share "_INBOX".
func InboxPrefix(user string) string {
	if user == "" {
		return "_INBOX"
	}
	return "_INBOX." + user
}
