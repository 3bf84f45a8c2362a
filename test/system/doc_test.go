// Package system_test runs whole processes of Waybill and uses them as strangers
// do: over REST and gRPC, through real sockets. What a service does by itself is
// tested beside its code; here stands what users, attackers and accidents see.
package system_test
