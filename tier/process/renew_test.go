package process

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// seen is what an engine does from one look at it to the next.
type seen struct {
	uses   int
	silent bool // nothing is sent to those uses
	page   time.Duration
	answer error
	works  bool
	faults uint64
}

func (s seen) orElse(when bool, other seen) seen {
	if when {
		return other
	}
	return s
}

var errLate = errors.New("no answer")

// watch looks at an engine, once each time, and returns the first verdict and when it was.
func watch(v *vigil, times int, at func(i int) seen) (*verdict, time.Duration) {
	began := time.Unix(1e9, 0)
	now, done, silence := began, effort{}, time.Duration(0)
	for i := range times {
		s := at(i)
		now = now.Add(v.every())
		if s.works {
			done.cpu += v.every()
		}
		done.faults += s.faults
		if s.uses > 0 {
			if silence += v.every(); !s.silent {
				silence = 0
			}
		}
		e := done
		o := &observation{at: now, uses: s.uses, silence: silence, effort: &e, asked: max(s.page, time.Millisecond), answer: s.answer}
		if verdict := v.observe(o); verdict != nil {
			return verdict, now.Sub(began)
		}
	}
	return nil, 0
}

func TestVigil_WhatAnEngineDoes_RenewedIfItIsOfNoUse(t *testing.T) {
	const limit = time.Minute
	all := vigil{idle: limit, silent: limit, slow: 4}
	refused := &statusError{503, ""}
	always := func(s seen) func(int) seen { return func(int) seen { return s } }
	for _, c := range []struct {
		name string
		with vigil
		does func(i int) seen
		want Fault // "": none
		says string
	}{
		{"IdleAndAnswers", all, always(seen{}), "", ""},
		{"IdleAndDoesNotAnswer", all, always(seen{answer: errLate}), Silent, "no request used it"},
		{"IdleAndRefuses", all, always(seen{answer: refused}), Silent, "503"},
		{"IdleAndAnswersNowAndThen", all, func(i int) seen {
			if i%3 == 0 {
				return seen{}
			}
			return seen{answer: errLate}
		}, "", ""},
		{"IdleButOff", vigil{silent: limit}, always(seen{answer: errLate}), "", ""},
		{"StreamsAndItsPageIsLate", all, always(seen{uses: 1, answer: errLate}), "", ""},
		{"LongAnswer", all, always(seen{uses: 1, silent: true, works: true}), "", ""},
		{"LongAnswerAndRefuses", all, always(seen{uses: 1, silent: true, works: true, answer: refused}), "", ""},
		{"LongAnswerFromADisk", all, always(seen{uses: 1, silent: true, faults: 1}), "", ""},
		{"Stopped", all, always(seen{uses: 1, silent: true, answer: errLate}), Silent, "health page does not answer"},
		{"SpinsAndItsPageIsLate", all, always(seen{uses: 1, silent: true, works: true, answer: errLate}), Silent, "health page does not answer"},
		{"WaitsForItself", all, always(seen{uses: 1, silent: true}), Silent, "did nothing"},
		{"SilentButOff", vigil{idle: limit, slow: 4}, always(seen{uses: 1, silent: true, answer: errLate}), "", ""},
		{"RestsAnHourAfterARequestWasGivenUp", all, func(i int) seen {
			return seen{uses: i / 240, silent: true, works: i > 242}.orElse(i < 3, seen{uses: 1, silent: true, works: true})
		}, "", ""},
		{"PageBecomesSlow", all, func(i int) seen { return seen{page: time.Duration(1+i/10*10) * 20 * time.Millisecond} }, Slow, "health page takes 220 ms"},
		{"PageBecomesSlowButOff", vigil{idle: limit, silent: limit}, func(i int) seen { return seen{page: time.Duration(1+i/10*10) * 20 * time.Millisecond} }, "", ""},
		{"PageIsSlowFromTheStart", all, always(seen{page: time.Second}), "", ""},
		{"PageBecomesSlowOnce", all, func(i int) seen { return seen{page: time.Duration(i%20/19) * time.Second} }, "", ""},
		{"PageVariesByLittle", all, func(i int) seen { return seen{page: time.Duration(1+i/10) * time.Millisecond} }, "", ""},
		{"FaultsAtLast", all, func(i int) seen { return seen{works: true, faults: uint64(i / 20 * 100_000)} }, Slow, "waits for the disk"},
		{"PageIsSlowInUse", all, func(i int) seen {
			return seen{page: 20 * time.Millisecond}.orElse(i > 10 && i < 40, seen{uses: 1, works: true, page: time.Second})
		}, "", ""},
		{"FaultsVaryByLittle", all, func(i int) seen { return seen{works: true, faults: uint64(i)} }, "", ""},
		{"FaultsAtLastButInUse", all, func(i int) seen { return seen{uses: 1, works: true, faults: uint64(i / 20 * 100_000)} }, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := c.with
			got, after := watch(&v, 400, c.does)
			switch {
			case got == nil && c.want != "" || got != nil && got.fault != c.want:
				t.Fatalf("it is %+v after %v, want %q", got, after, c.want)
			case got == nil:
				return
			case !strings.Contains(got.why.Error(), c.says):
				t.Errorf("it says %v, want %q", got.why, c.says)
			case c.want == Silent && (after < limit || after > 3*limit/2):
				t.Errorf("it takes %v to see it", after)
			}
		})
	}
}

// A single page that is late may be our own stop, or that of the machine.
func TestVigil_OneLatePageForLong_NotEnough(t *testing.T) {
	v := &vigil{idle: time.Minute}
	now := time.Unix(1e9, 0)
	if got := v.observe(&observation{at: now.Add(time.Hour), asked: time.Hour, answer: errLate}); got != nil {
		t.Errorf("%+v", got)
	}
}

func TestUse_Silence_CountsOnlyWhatIsWaitedForTheEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &Mover{slots: map[string]*slot{}}
		c := &child{url: "http://127.0.0.1:1"}
		if _, ok := m.Use("m"); ok {
			t.Error("an engine that does not run has a use")
		}
		m.slots["m"] = &slot{state: Running, child: c}
		begin := func() *Use {
			u, ok := m.Use("m")
			if !ok || u.URL() != c.url {
				t.Fatal(u, ok)
			}
			return u
		}
		expect := func(uses int, want time.Duration) {
			t.Helper()
			if n, got := c.traffic.now(); n != uses || got != want {
				t.Errorf("%d uses, silence of %v, want %d and %v", n, got, uses, want)
			}
		}
		first := begin()
		if !m.slots["m"].talk.used {
			t.Error("its conversation counts as not used")
		}
		time.Sleep(time.Minute)
		expect(1, time.Minute)
		first.End() // its client has left
		first.End()
		time.Sleep(time.Hour)
		expect(0, 0)
		second := begin()
		time.Sleep(time.Second)
		third := begin()
		expect(2, time.Minute+time.Second)
		body := second.Body(io.NopCloser(bytes.NewReader(make([]byte, 10))))
		expect(2, 0)
		time.Sleep(time.Second)
		expect(2, time.Second) // the third waits
		third.End()
		time.Sleep(time.Hour) // the receiver of the second is slow
		expect(1, 0)
		if b, err := io.ReadAll(body); len(b) != 10 || err != nil {
			t.Error(b, err)
		}
		r, w := io.Pipe()
		body = second.Body(r)
		go body.Read(make([]byte, 1))
		time.Sleep(time.Minute)
		expect(1, time.Minute)
		w.Write([]byte("x"))
		synctest.Wait()
		expect(1, 0)
		second.End()
		expect(0, 0)
	})
}

// An engine that is frozen, or moved, answers no health page, which is no fault of its:
// afterwards it has all of its time again.
func TestAttend_EngineIsMoved_HasItsTimeAgain(t *testing.T) {
	const limit = time.Minute // that is looked at four times
	for name, movedAt := range map[string]int{"FrozenForLong": 0, "MovedWhileItIsAsked": 5} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			nothing := &logs{records: slog.New(slog.DiscardHandler), lines: slog.New(slog.DiscardHandler)}
			m := &Mover{log: nothing.records, killLimit: time.Minute, slots: make(map[string]*slot), ports: make(map[int]struct{})}
			s := &slot{name: "m", state: Frozen, learned: new(measure)}
			m.slots["m"] = s
			go func() { // outside of the bubble, which stands still meanwhile
				for asked := 1; ; asked++ {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					if asked == movedAt {
						m.mu.Lock()
						s.transition(Frozen, s.child)
						s.transition(Running, s.child)
						m.mu.Unlock()
					}
					conn.Close()
				}
			}()
			synctest.Test(t, func(t *testing.T) {
				sys := &system{}
				m.sys, m.givenUp = sys, make(chan struct{})
				c := newChild(sys, "m", l.Addr().(*net.TCPAddr).Port, nothing)
				sys.kill = func(int, []int) error { close(c.exited); close(c.done); return nil }
				m.set(s, Frozen, c)
				go m.attend(s, c, Engine{IdleCheck: limit})
				time.Sleep(10*limit + time.Second)
				m.set(s, Running, c)
				renewals := func() int {
					m.mu.Lock()
					defer m.mu.Unlock()
					return s.renewals
				}
				if movedAt > 0 {
					time.Sleep(3 * limit / 2) // the fifth look that fails would be the last
				} else {
					time.Sleep(limit / 2)
				}
				if renewals() != 0 {
					t.Error("it was renewed for what was before")
				}
				time.Sleep(2 * limit)
				if renewals() != 1 {
					t.Errorf("it answers nobody, and was renewed %d times", renewals())
				}
				close(m.givenUp)
			})
		})
	}
}
