package state

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// killDir names the state folder to the child of TestSave_KilledAtRandomPoints.
const killDir = "MODELTIER_TEST_KILL_DIR"

// TestStoreChild is not a test: it is the process that is killed. It saves as fast
// as it can, from several goroutines, and says on standard output what was
// acknowledged.
func TestStoreChild(t *testing.T) {
	dir := os.Getenv(killDir)
	if dir == "" {
		t.Skip("runs as the child of TestSave_KilledAtRandomPoints only")
	}
	s, st, warnings, err := Open(dir)
	if err != nil || len(warnings) > 0 {
		fmt.Println("failed", err, warnings)
		return
	}
	var (
		mu  sync.Mutex
		now = number(t, st)
		wg  sync.WaitGroup
	)
	fmt.Println("begin", now)
	for range 3 {
		wg.Go(func() {
			for {
				mu.Lock()
				now++
				mine, err := now, save(s, now)
				mu.Unlock()
				if err != nil {
					fmt.Println("failed", err)
					return
				}
				fmt.Println("acknowledged", mine)
			}
		})
	}
	wg.Wait()
}

// TestSave_KilledAtRandomPoints_NothingAcknowledgedIsLost kills a process that
// saves without pause, 500 times, and starts it again on the same folder.
func TestSave_KilledAtRandomPoints_NothingAcknowledgedIsLost(t *testing.T) {
	kills := 500
	if testing.Short() {
		kills = 50
	}
	dir := t.TempDir()
	dice := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	var acked, saves uint64
	for i := range kills {
		last, n, err := killOnce(dir, dice)
		if err != nil {
			t.Fatalf("kill %d: %v", i, err)
		}
		acked = max(acked, last)
		saves += n

		s, st, warnings, err := Open(dir)
		if err != nil || len(warnings) > 0 {
			t.Fatalf("kill %d: error %v, warnings %v", i, err, warnings)
		}
		s.Close()
		if got := number(t, st); got < acked {
			t.Fatalf("kill %d: %d was read back, %d was acknowledged", i, got, acked)
		}
	}
	if saves < uint64(kills) {
		t.Errorf("only %d saves were acknowledged in %d lives: the kills come too early to prove anything", saves, kills)
	}
	t.Logf("%d kills, %d acknowledged saves", kills, saves)
}

// killOnce runs a child until some saves were acknowledged, and kills it at a
// random instant after that. It returns the highest acknowledged number and how
// many acknowledgements there were.
func killOnce(dir string, dice *rand.Rand) (acked, saves uint64, err error) {
	child := exec.Command(os.Args[0], "-test.run=^TestStoreChild$")
	child.Env = append(os.Environ(), killDir+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		return 0, 0, err
	}
	if err := child.Start(); err != nil {
		return 0, 0, err
	}
	defer child.Wait()
	defer child.Process.Kill()

	// The instant of the kill is what is random here: nothing waits for this timer.
	after := 1 + dice.Uint64N(8)
	var timer *time.Timer
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) {
			return acked, saves, nil // what was cut off was not acknowledged
		}
		if err != nil {
			return acked, saves, err
		}
		what, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch what {
		case "begin":
		case "acknowledged":
			n, err := strconv.ParseUint(rest, 10, 64)
			if err != nil {
				return acked, saves, err
			}
			acked = max(acked, n)
			if saves++; saves == after {
				timer = time.AfterFunc(time.Duration(dice.Int64N(int64(3*time.Millisecond))), func() { child.Process.Kill() })
			}
		default:
			return acked, saves, errors.New(line)
		}
	}
}

// TestSave_PowerCutAtEveryStep_NothingAcknowledgedIsLost cuts the power at each
// step of a life of three saves, with many fates of what was not flushed.
func TestSave_PowerCutAtEveryStep_NothingAcknowledgedIsLost(t *testing.T) {
	const saves, fates = 3, 40
	last := 0
	for at := 1; ; at++ {
		reached := false
		for seed := range uint64(fates) {
			d := newFakeDisk(seed)
			acked, tried := uint64(0), uint64(0)
			d.crashAt = at
			cut := live(d, func(s *Store) {
				for n := uint64(1); n <= saves; n++ {
					tried = n
					if save(s, n) == nil {
						acked = n
					}
				}
			})
			reached = reached || cut
			d.reboot()
			_, st, warnings, err := open("/state", d)
			if err != nil || len(warnings) > 0 {
				t.Fatalf("cut at step %d, fate %d: error %v, warnings %v\n%s", at, seed, err, warnings, strings.Join(d.trace, "\n"))
			}
			if n := number(t, st); n < acked || n > tried {
				t.Fatalf("cut at step %d, fate %d: %d was read, %d acknowledged, %d tried\n%s", at, seed, n, acked, tried, strings.Join(d.trace, "\n"))
			}
		}
		if !reached {
			last = at - 1
			break
		}
	}
	if last < 3*6 {
		t.Errorf("only %d steps: does the store flush at all?", last)
	}
}

// live runs a process on the disk, and reports whether the power was cut.
func live(d *fakeDisk, work func(*Store)) (cut bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(powerCut); !ok {
				panic(r)
			}
			d.mu.TryLock() // a step panics with the lock held
			d.mu.Unlock()
			cut = true
		}
	}()
	s, _, _, err := open("/state", d)
	if err == nil {
		work(s)
	}
	return false
}

// TestSave_FaultsAndPowerCuts_NothingAcknowledgedIsLost mixes saves, errors of
// the disk and power cuts.
func TestSave_FaultsAndPowerCuts_NothingAcknowledgedIsLost(t *testing.T) {
	steps := []string{"read", "create", "write", "sync", "close", "rename", "remove", "syncdir"}
	rapid.Check(t, func(t *rapid.T) {
		d := newFakeDisk(rapid.Uint64().Draw(t, "fate"))
		var acked, tried uint64
		for range rapid.IntRange(1, 4).Draw(t, "lives") {
			d.steps, d.trace = 0, nil
			d.crashAt = rapid.IntRange(0, 60).Draw(t, "crash at")
			live(d, func(s *Store) {
				for range rapid.IntRange(0, 5).Draw(t, "saves") {
					faulty := rapid.SampledFrom(append(steps, "", "", "")).Draw(t, "fault")
					d.fail = func(step, _ string) error {
						if step == faulty {
							return syscall.ENOSPC
						}
						return nil
					}
					tried++
					if err := save(s, tried); err == nil {
						acked = tried
					} else if faulty == "" {
						t.Fatalf("save %d without a fault: %v", tried, err)
					}
				}
			})
			d.reboot()
			s, st, warnings, err := open("/state", d)
			if err != nil || len(warnings) > 0 {
				t.Fatalf("error %v, warnings %v", err, warnings)
			}
			n := number(t, st)
			if n < acked || n > tried {
				t.Fatalf("%d was read, %d acknowledged, %d tried\n%s", n, acked, tried, strings.Join(d.trace, "\n"))
			}
			acked = n
			s.Close()
		}
	})
}
