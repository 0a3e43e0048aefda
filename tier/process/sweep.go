package process

import (
	"context"
	"fmt"
	"os"
)

// sweep makes the state folder and ends what is recorded there and was left
// behind.
func (m *Mover) sweep() error {
	if err := os.MkdirAll(m.opts.StateDir, 0o700); err != nil {
		return fmt.Errorf("the folder of engines: %w", err)
	}
	if m.sys.sweep == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), m.killLimit)
	defer cancel()
	swept, err := m.sys.sweep(ctx, m.opts.StateDir)
	m.swept = swept
	for _, what := range swept {
		m.log.Warn("an engine was left behind and has been ended", "what", what)
	}
	if err != nil {
		// What is left over is for the next sweep; it holds up nobody who starts.
		m.log.Error("not all that was left behind could be ended", "err", err)
		m.swept = append(m.swept, "failed: "+err.Error())
	}
	return nil
}
