package storetest_test

import (
	"testing"

	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	"github.com/waybill-dev/waybill/services/shipping/internal/storetest"
)

func TestStoreOnEveryDatabase(t *testing.T) {
	sqldbtest.Each(t, storetest.Run)
}
