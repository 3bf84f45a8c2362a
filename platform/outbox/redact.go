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

// stride is how many rows of the outbox one statement looks through. Events are
// not indexed by their aggregate, since every commit would pay for that.
const stride = 20_000

// Redact takes what the contract marks as sensitive out of the events about one
// aggregate that this database still holds: those it published and those it could
// not handle. It may be repeated. While one of them is not published yet it fails
// with Unavailable, and should be called again later. It reads the whole outbox,
// in steps, and is for the background.
//
// Streams are not touched; they forget by age.
func Redact(ctx context.Context, db *sqldb.DB, aggregateID string) error {
	var pending int64
	if err := db.QueryRow(ctx, `SELECT count(*) FROM outbox_pending p JOIN outbox o ON o.seq = p.seq WHERE o.aggregate_id = ?`, aggregateID).Scan(&pending); err != nil {
		return err
	}
	if pending > 0 {
		return errs.E(errs.Unavailable, "NOT_PUBLISHED", "%d events about %s are not published yet", pending, aggregateID)
	}
	var from, last int64
	if err := db.QueryRow(ctx, `SELECT COALESCE(min(seq), 0), COALESCE(max(seq), 0) FROM outbox`).Scan(&from, &last); err != nil {
		return err
	}
	for ; from <= last; from += stride {
		err := redactRows(ctx, db, `SELECT seq, type, payload FROM outbox WHERE seq >= ? AND seq < ? AND aggregate_id = ?`,
			`UPDATE outbox SET payload = ? WHERE seq = ?`, new(int64), from, from+stride, aggregateID)
		if err != nil {
			return err
		}
	}
	return redactRows(ctx, db, `SELECT dead_letter_id, type, payload FROM dead_letters WHERE aggregate_id = ?`,
		`UPDATE dead_letters SET payload = ? WHERE dead_letter_id = ?`, new(string), aggregateID)
}

// redactRows cleans the rows that read gives as key, type and payload.
func redactRows[K any](ctx context.Context, db *sqldb.DB, read, write string, key *K, args ...any) error {
	return db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		rows, err := tx.Query(ctx, read, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		type change struct {
			key   K
			clean []byte
		}
		var changes []change
		for rows.Next() {
			var typ string
			var payload []byte
			if err := rows.Scan(key, &typ, &payload); err != nil {
				return err
			}
			if clean, changed := redact(typ, payload); changed {
				changes = append(changes, change{*key, clean})
			}
		}
		if err := rows.Err(); err != nil {
			return err
		}
		for _, c := range changes {
			if _, err := tx.Exec(ctx, write, c.clean, c.key); err != nil {
				return err
			}
		}
		return nil
	})
}

// Harmless reads the payload of an event of a full protobuf name without what the
// contract marks as sensitive, for people to look at. ok is false when it cannot be
// read, for then nobody can tell what it holds.
func Harmless(typ string, payload []byte) (m proto.Message, ok bool) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(typ))
	if err != nil {
		return nil, false
	}
	m = t.New().Interface()
	if proto.Unmarshal(payload, m) != nil {
		return nil, false
	}
	wipe(m.ProtoReflect())
	return m, true
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
