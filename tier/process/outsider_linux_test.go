package process

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// fleetOutsiders is how many programs ask for room, one after the other, all the time.
const fleetOutsiders = 3

// roomWays are the ways to ask for room, each with an end of its own.
var roomWays = [...]string{"Reserve", "a lifetime", "a connection"}

// fakeOutsider is a program that holds as many bytes as the last line of its standard
// input says, and says so once it does.
func fakeOutsider() int {
	var held []byte
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var n int
		_, err := fmt.Sscan(in.Text(), &n)
		if held != nil {
			err = errors.Join(err, unix.Munmap(held))
			held = nil
		}
		if err == nil && n > 0 {
			held, err = unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
		}
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("holds", n)
	}
	return 0
}

// outsider is a program that is given room again and again, takes all or a part of it,
// or nothing, and gives it back.
func (f *fleet) outsider(ctx context.Context) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), role+"=outsider", noLinger)
	in, err := cmd.StdinPipe()
	if err != nil {
		f.t.Error(err)
		return
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		f.t.Error(err)
		return
	}
	said := bufio.NewScanner(out)
	hold := func(b tier.Bytes) {
		fmt.Fprintln(in, int64(b))
		if want := fmt.Sprint("holds ", int64(b)); !said.Scan() || said.Text() != want {
			f.t.Errorf("an outsider that was to hold %v said %q", b, said.Text())
		}
	}
	for ctx.Err() == nil {
		b, way := hogStep*tier.Bytes(1+rand.IntN(12)), rand.IntN(len(roomWays))
		end, err := f.room(ctx, way, b)
		if err != nil {
			if ctx.Err() == nil {
				f.refuse("outsider", err)
			}
			continue
		}
		took := b * tier.Bytes(rand.IntN(3)) / 2
		hold(took)
		if roomWays[way] != "a lifetime" { // which is to end after it gave its memory back
			select {
			case <-time.After(rand.N(time.Second)): // as long as it plays
			case <-ctx.Done():
			}
		}
		hold(0)
		if err := end(); err != nil {
			f.t.Errorf("room by %s: %v", roomWays[way], err)
		}
		f.given[way][f.third()].Add(1)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		f.t.Errorf("an outsider ended with %v", err)
	}
}

// room asks for room in one of roomWays. end waits until it is given back.
func (f *fleet) room(ctx context.Context, way int, b tier.Bytes) (end func() error, err error) {
	if roomWays[way] == "Reserve" {
		r, err := f.Reserve(ctx, b, "a game")
		if err != nil {
			return nil, err
		}
		return func() error {
			r.Release()
			<-r.Done()
			return f.ended(r.ID())
		}, nil
	}
	var a struct{ Reservation, Code, Reason string }
	gb := float64(b) / float64(tier.GiB)
	if roomWays[way] == "a lifetime" {
		err = json.Unmarshal(f.HandleRequest(ctx, fmt.Appendf(nil, `{"reserve": {"gb": %v, "reason": "a game", "for_s": 2}}`, gb)), &a)
		end = func() error { return f.ended(a.Reservation) }
	} else {
		held, leave := context.WithCancel(context.WithoutCancel(ctx))
		stop := context.AfterFunc(ctx, leave) // as long as it waits
		req, err := http.NewRequestWithContext(held, http.MethodPost, f.url+"/v1/reservations", strings.NewReader(fmt.Sprintf(`{"gb": %v, "hold": true}`, gb)))
		if err != nil {
			return nil, err
		}
		res, err := f.http.Do(req)
		if err == nil {
			err = json.NewDecoder(res.Body).Decode(&a)
		}
		stop()
		end = func() error {
			leave()
			res.Body.Close()
			return f.ended(a.Reservation)
		}
		if err != nil || a.Reservation == "" {
			leave()
		}
		if err != nil {
			return nil, err
		}
	}
	switch {
	case err != nil || a.Reservation != "":
		return end, err
	case a.Code == tier.Code(tier.ErrNoCapacity):
		return nil, fmt.Errorf("%w: %s", tier.ErrNoCapacity, a.Reason)
	case a.Code == tier.Code(tier.ErrBusy):
		return nil, fmt.Errorf("%w: %s", tier.ErrBusy, a.Reason)
	}
	return nil, fmt.Errorf("%s: %s", a.Code, a.Reason)
}

// ended waits until a reservation is not held any more.
func (f *fleet) ended(id string) error {
	for limit := time.Now().Add(patience); time.Now().Before(limit); time.Sleep(10 * time.Millisecond) {
		if !slices.ContainsFunc(f.Status().Reservations, func(r modeltier.ReservationStatus) bool { return r.ID == id }) {
			return nil
		}
	}
	return fmt.Errorf("%s is still held", id)
}
