package cli

import (
	"io"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// bar shows progress on a terminal and nothing elsewhere.
type bar struct {
	p *mpb.Progress
	b *mpb.Bar
}

func newBar(out io.Writer, what string, total int) *bar {
	if !isTerminal(out) {
		return &bar{}
	}
	p := mpb.New(mpb.WithOutput(out), mpb.WithWidth(48))
	return &bar{p, p.AddBar(int64(total), mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(what+" "), decor.CountersNoUnit("%d / %d")),
		mpb.AppendDecorators(decor.Percentage()))}
}

func (b *bar) set(n int) {
	if b.b != nil {
		b.b.SetCurrent(int64(n))
	}
}

// stop removes the bar; it may be called twice.
func (b *bar) stop() {
	if b.b == nil {
		return
	}
	b.b.Abort(true)
	b.p.Wait()
	b.b = nil
}
