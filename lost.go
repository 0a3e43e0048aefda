package modeltier

import (
	"cmp"
	"errors"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// Lost tells the Manager that a model has left memory though nobody moved it: its
// engine crashed, or a remote one began anew. It is what a Mover's owner calls
// where the Mover notices such things, as process.Options.Crashed does.
//
// The model takes no new leases from then on, and those that are held are told
// (Lease.Done); when they have ended, the Mover moves it to storage, which tidies
// up, and whoever asks for it has it loaded again. From the third time in a row on
// that it is lost within seconds of its load, requests are refused with ErrBusy for
// a while first, 1 s and twice as long each time. To say it twice, or of a model
// that is in storage or moving, does nothing: the move's end says what became of
// it. cause is for the log and the reason of the move. A name that is not known
// gives ErrNotFound. Lost does not wait for anything.
func (m *Manager) Lost(model string, cause error) error {
	lib := m.snap.Load().view.Library
	if _, ok := lib.Find(model); !ok {
		return &tier.NotFoundError{What: "model", Name: model, Nearby: tier.Nearest(model, lib.Names(lib.Len()))}
	}
	if !m.post(func(time.Time) { m.ctl.lost(model, cause) }) {
		return tier.ErrClosed
	}
	return nil
}

// errUnknown is the cause of a loss that nobody gave one.
var errUnknown = errors.New("no cause was given")

func (c *control) lost(model string, cause error) {
	e, ok := c.core.Find(model)
	if !ok || c.stopping {
		return
	}
	c.m.log.Warn("a model left memory by itself", "model", model, "cause", cause)
	for mv, g := range c.moves {
		if mv.Entry == e && g.returned.Load() {
			g.lost = cmp.Or(cause, errUnknown)
		}
	}
	shared(e).gate.lose()
	c.core.Lose(e, cause, c.now)
}
