package sim

// Sometimes lists what has to happen now and then in many worlds with all faults.
// Worlds in which one of these never happens prove less than they seem to.
func Sometimes() []string {
	return []string{
		"acknowledgement lost", "acknowledgement of a publication lost", "ambiguous commit", "authorization that came after the cancellation",
		"batch of several", "call of another life taken over", "call repeated", "cancellation granted", "cancellation refused",
		"capture asked for again", "capture that came after the cancellation", "carrier booked and did not say so", "carrier did not answer",
		"carrier forgot scans", "carrier refused", "carrier too late to be called off", "command repeated after an error",
		"crash after the commit", "crash before the commit", "crash before the writes", "database away", "delayed message",
		"delivery refused for now", "duplicate delivered", "event OrderTimedOut", "event PaymentCaptureFailed", "event PaymentDeclined",
		"event PaymentUnknown", "event ShipmentCancelRefused", "event ShipmentLost", "event StockExpired", "event StockRejected",
		"event of another replica not overtaken", "event overtaken by a later one", "hanging order found the door closed",
		"hold sold shortly before its end", "lease taken over", "marks of a relay that had lost its lease", "message delivered again",
		"message of several events", "message of several events delivered again", "notice before the answer",
		"null compensation of a parcel", "null compensation of a payment", "null compensation of stock", "order CANCELLED", "order DELIVERED",
		"order REJECTED", "order RETURNED", "pause", "provider answered nonsense", "provider did it and did not say so",
		"provider did not get it", "provider does it late", "provider has never seen it", "provider was away", "provider refused to give back, this time",
		"publication dropped", "publication recognised as repeated", "publication that arrived after its sender gave up",
		"published by a relay that had lost its lease", "refund granted", "refund over the cap refused", "request answered again",
		"return granted", "serialization failure", "stream lost its tail", "stream refilled", "swept", "transactions that met",
	}
}

// Missing lists what never happened of what has to happen sometimes.
func (r *Report) Missing() []string {
	var missing []string
	for _, what := range Sometimes() {
		if r.Counts[what] == 0 {
			missing = append(missing, what)
		}
	}
	return missing
}
