package sqldb

import "context"

// A Querier is a DB or a Tx.
type Querier interface {
	Query(ctx context.Context, query string, args ...any) (*Rows, error)
}

// Each runs a query and gives each of its rows to fn, whose error ends it.
func Each(ctx context.Context, q Querier, query string, args []any, fn func(Scanner) error) error {
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// All runs a query and gives its rows, read with scan, or an error and none.
func All[T any](ctx context.Context, q Querier, query string, args []any, scan func(Scanner) (T, error)) ([]T, error) {
	var all []T
	err := Each(ctx, q, query, args, func(s Scanner) error {
		one, err := scan(s)
		all = append(all, one)
		return err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// Only reads a row of one column, for All.
func Only[T any](s Scanner) (v T, err error) {
	err = s.Scan(&v)
	return v, err
}
