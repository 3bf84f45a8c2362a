package outbox

import (
	"context"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/sqldb"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
)

// Redact takes what the contract marks as sensitive out of the events about one
// aggregate that this database still holds: those it published and those it could
// not handle. It may be repeated. While one of them is not published yet it fails
// with Unavailable, and should be called again later.
//
// Streams are not touched; they forget by age.
func Redact(ctx context.Context, db *sqldb.DB, aggregateID string) error {
	return db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		var pending int64
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM outbox WHERE aggregate_id = ? AND published_at IS NULL`, aggregateID).Scan(&pending); err != nil {
			return err
		}
		if pending > 0 {
			return errs.E(errs.Unavailable, "NOT_PUBLISHED", "%d events about %s are not published yet", pending, aggregateID)
		}
		for _, table := range []struct{ read, write string }{
			{`SELECT event_id, type, payload FROM outbox WHERE aggregate_id = ?`, `UPDATE outbox SET payload = ? WHERE aggregate_id = ? AND event_id = ?`},
			{`SELECT dead_letter_id, type, payload FROM dead_letters WHERE aggregate_id = ?`, `UPDATE dead_letters SET payload = ? WHERE aggregate_id = ? AND dead_letter_id = ?`},
		} {
			rows, err := tx.Query(ctx, table.read, aggregateID)
			if err != nil {
				return err
			}
			for rows.Next() {
				var id, typ string
				var payload []byte
				if err := rows.Scan(&id, &typ, &payload); err != nil {
					return err
				}
				if clean, changed := redact(typ, payload); changed {
					if _, err := tx.Exec(ctx, table.write, clean, aggregateID, id); err != nil {
						return err
					}
				}
			}
			if err := rows.Err(); err != nil {
				return err
			}
		}
		return nil
	})
}

// redact gives a payload without what is sensitive. Of one that cannot be read
// nothing is left, for nobody can tell what it holds.
func redact(typ string, payload []byte) (clean []byte, changed bool) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(typ))
	if err != nil {
		return []byte{}, len(payload) > 0
	}
	m := t.New()
	if proto.Unmarshal(payload, m.Interface()) != nil {
		return []byte{}, len(payload) > 0
	}
	if !wipe(m) {
		return payload, false
	}
	clean, err = proto.MarshalOptions{Deterministic: true}.Marshal(m.Interface())
	if err != nil {
		return []byte{}, true
	}
	return clean, true
}

// wipe clears the sensitive fields of m and of what is in it.
func wipe(m protoreflect.Message) (changed bool) {
	if len(m.GetUnknown()) > 0 { // of a newer contract; what they mean is not known
		m.SetUnknown(nil)
		changed = true
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch secret, _ := proto.GetExtension(f.Options(), optionsv1.E_Sensitive).(bool); {
		case secret:
			m.Clear(f)
			changed = true
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					changed = wipe(v.Message()) || changed
					return true
				})
			}
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				changed = wipe(v.List().Get(i).Message()) || changed
			}
		default:
			changed = wipe(v.Message()) || changed
		}
		return true
	})
	return changed
}
