package modeltier

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/modeltier/modeltier/internal/core"
	"github.com/modeltier/modeltier/internal/wire"
	"github.com/modeltier/modeltier/tier"
)

// Reservation is room in ram that an outsider, another program on the machine, has
// until it is given back. Its methods may be called from any goroutine.
type Reservation struct {
	m    *Manager
	room *core.Outsider
	done chan struct{} // closed by the loop
	once sync.Once
}

// ID names it, in Status and on the wire. No other has it, after a restart either.
func (r *Reservation) ID() string {
	if r.room == nil {
		return ""
	}
	return r.room.ID
}

// Bytes returns the room that it is for.
func (r *Reservation) Bytes() tier.Bytes {
	if r.room == nil {
		return 0
	}
	return r.room.Bytes
}

// Done is closed when the room has been given back, or the Manager ends.
func (r *Reservation) Done() <-chan struct{} { return r.done }

// Release gives the room back. It is idempotent and never blocks; a nil Reservation
// and a zero one have nothing to give. The outsider has freed its memory by then, or does so at once.
func (r *Reservation) Release() {
	if r == nil || r.room == nil {
		return
	}
	r.once.Do(func() {
		r.m.post(func(now time.Time) { r.m.ctl.core.TakeBack(r.room, nil, now) })
	})
}

// Reserve gives an outsider room: another program on the machine that needs b bytes of
// memory for a while. The room is charged to ram, so that it counts against the limit,
// and models give way for it as they do for a model that is asked for, in its turn and
// with the same protection; why, 256 bytes at most, names it in Status and where others
// are refused for it. Nothing is promised out of it, whether the outsider has taken its
// memory yet or not. When it is given back, models that gave way come home again as far
// as there is room, and the rest is for the Placement to plan.
//
// The end of ctx ends the wait, with context.Cause(ctx); once the room is given ctx has
// no part in it. It is given back by Release and by the end of the Manager (Shutdown,
// Close), and is not kept across restarts. More than the limit, or the machine, has
// beside what pinned models hold gives ErrTooLarge; room that others hold who do not give
// way, pinned models and reservations, ErrNoCapacity, with their names; a wait longer
// than Config.MaxWait, as for models that stay in use, ErrBusy.
//
// What the outsider has taken can only be told from what is available on the machine:
// the room counts as taken as far as that has fallen since, beside what models take.
// In doubt it counts as not taken, and is kept free: memory that other programs give
// back is then not promised until the room is. Models that come and go may take less
// than they are charged: what that changes does not count. What cannot be told from the
// outsider's taking its own: that other programs take memory before it does, and that a
// model takes later what it was charged for when it came. Limits.Reserved is for that.
func (m *Manager) Reserve(ctx context.Context, b tier.Bytes, why string) (*Reservation, error) {
	return m.reserve(ctx, b, why, 0)
}

// reserve is Reserve with a time after which the room is taken back; 0: none.
func (m *Manager) reserve(ctx context.Context, b tier.Bytes, why string, lifetime time.Duration) (*Reservation, error) {
	switch {
	case b <= 0:
		return nil, &tier.InvalidError{Field: "bytes", Value: fmt.Sprint(int64(b)), Rule: "must be positive"}
	case b > core.MaxSeen: // whatever the limit
		return nil, &tier.CapacityError{Tier: tier.RAM, Need: b, Limit: core.MaxSeen, Never: true}
	case len(why) > wire.MaxReason:
		return nil, &tier.InvalidError{Field: "why", Value: fmt.Sprintf("of %d bytes", len(why)), Rule: fmt.Sprintf("must have %d bytes at most", wire.MaxReason)}
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	r := &Reservation{m: m, done: make(chan struct{})}
	r.room = &core.Outsider{ID: newReservationID(), Why: strings.ToValidUTF8(why, "\uFFFD"), Bytes: b, For: lifetime}
	w := &waiter{}
	w.Outsider = r.room
	a := m.wait(ctx, w, nil, func(began time.Time) { m.ctl.joinOutsider(w, r, began) }, func(answer) { r.Release() })
	if a.err != nil {
		return nil, m.whenRoom(a.err)
	}
	return r, nil
}

// newReservationID returns an ID that no other reservation has: 60 random bits.
func newReservationID() string { return "r-" + strings.ToLower(rand.Text()[:12]) }

// joinOutsider takes up a request for room.
func (c *control) joinOutsider(w *waiter, r *Reservation, began time.Time) {
	w.Claim = w.claim
	w.Reply = func(err error) {
		if err == nil {
			c.reservations[r.room] = r
			c.m.log.Info("room was reserved", "reservation", r.ID(), "for", r.room.Why, "bytes", r.Bytes(), "lifetime", r.room.For)
		} else {
			c.m.log.Info("room was not reserved", "for", r.room.Why, "bytes", r.Bytes(), "err", err)
		}
		c.after = append(c.after, func() { w.answer <- answer{err: err} })
	}
	if c.stopping {
		if w.claim() {
			w.answer <- answer{err: tier.ErrClosed}
		}
		return
	}
	w.Since, w.Deadline = began, began.Add(c.m.cfg.MaxWait)
	c.core.JoinOutsider(&w.Waiter, c.now)
}

// roomEnded tells that an outsider holds its room no more.
func (c *control) roomEnded(a core.RoomEnded) {
	r := c.reservations[a.Outsider]
	delete(c.reservations, a.Outsider)
	c.m.log.Info("a reservation ended", "reservation", r.ID(), "for", r.room.Why, "bytes", r.Bytes(), "why", cmp.Or(a.Err, errGivenBack))
	c.after = append(c.after, func() { close(r.done) })
}

// errGivenBack is why a reservation ended that was released.
var errGivenBack = errors.New("it was released")

// release ends the reservation of that ID, and waits for that.
func (m *Manager) release(ctx context.Context, id string) error {
	_, err := ask(ctx, m, func(now time.Time, reply func(struct{}, error)) {
		c := &m.ctl
		for room := range c.reservations {
			if room.ID == id {
				c.core.TakeBack(room, nil, now)
				c.after = append(c.after, func() { reply(struct{}{}, nil) })
				return
			}
		}
		reply(struct{}{}, &tier.NotFoundError{What: "reservation", Name: id})
	})
	return err
}

// ReservationStatus is room that an outsider holds.
type ReservationStatus struct {
	ID     string     `json:"id"`
	Reason string     `json:"reason,omitempty"` // what it said that it is for
	Bytes  tier.Bytes `json:"bytes"`
	// Untaken is what of it the outsider is not seen to have taken, see Manager.Reserve:
	// it is kept free.
	Untaken tier.Bytes `json:"untaken,omitempty"`
	Since   time.Time  `json:"since"`
	Until   time.Time  `json:"until,omitzero"` // zero: until it is released
}

// reserved are the reservations that are held, oldest first; nil: there is none.
func (c *control) reserved() (all []ReservationStatus) {
	for _, o := range c.core.Outsiders() {
		all = append(all, ReservationStatus{ID: o.ID, Reason: o.Why, Bytes: o.Bytes, Untaken: c.core.Untaken(o), Since: o.Since, Until: o.Until})
	}
	return all
}
