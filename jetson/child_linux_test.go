package jetson

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// The test binary is a fake tegrastats when this variable says how to behave.
const fakeVariable = "MODELTIER_FAKE_TEGRASTATS"

func TestMain(m *testing.M) {
	if how := os.Getenv(fakeVariable); how != "" {
		os.Exit(fake(how, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// fake is what tegrastats is taken to be: lines on standard output until it is
// ended.
func fake(how string, args []string) int {
	if how == "parent" {
		return fakeParent()
	}
	if strings.Join(args, " ") != "--interval 100" {
		fmt.Printf("unknown option %q\n", args)
		return 2
	}
	for n := 1; ; n++ {
		fmt.Printf("RAM %d/7620MB (lfb 3x4MB) CPU [1%%@729] pid %d\n", n, os.Getpid())
		switch how {
		case "lines":
			time.Sleep(5 * time.Millisecond)
		case "deaf":
			signal.Ignore(syscall.SIGTERM, syscall.SIGPIPE)
			time.Sleep(time.Millisecond)
		case "crash":
			if n == 3 {
				fmt.Fprintln(os.Stderr, "nvmap: cannot go on")
				fmt.Print("RAM 4/76") // cut
				return 3
			}
		case "garbage":
			fmt.Print("\x00\x01garbage\n\n", strings.Repeat("z", 100_000), "\n")
		case "silent":
			select {}
		}
	}
}

// fakeParent is a process that reads tegrastats and waits to be killed.
func fakeParent() int {
	os.Setenv(fakeVariable, "silent")
	r := NewTegrastats(TegrastatsConfig{Path: os.Args[0], Interval: 1}).Open()
	if _, err := r.Next(context.Background(), 0); err != nil {
		fmt.Println("failed:", err)
		return 1
	}
	fmt.Println("up")
	select {}
}

// played returns a Tegrastats whose program is this test binary.
func played(t *testing.T, how string) *Tegrastats {
	t.Helper()
	selfStarting(t)
	t.Setenv(fakeVariable, how)
	return NewTegrastats(TegrastatsConfig{Path: os.Args[0], Interval: 1})
}

// selfStarting skips a test where the test binary cannot be started as a program:
// under an emulator that the kernel does not know of.
func selfStarting(t *testing.T) {
	t.Helper()
	if err := exec.Command(os.Args[0], "-test.run=^$").Run(); errors.Is(err, syscall.ENOEXEC) {
		t.Skipf("the test binary runs under an emulator and cannot start itself: %v", err)
	}
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestProcess_PrintsLines_ReadAndEndedByClose(t *testing.T) {
	r := played(t, "lines").Open()
	first, err := r.Next(soon(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(soon(t), first.Number+2); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	gone(t, first)
}

// gone checks that the process that printed the sample is no more.
func gone(t *testing.T, s Sample) {
	t.Helper()
	var pid int
	for _, e := range s.Reading.Engines { // "pid 123" reads as an engine of 123 MHz
		if e.Name == "pid" {
			pid = int(e.Freq.Value / MHz)
		}
	}
	if pid == 0 {
		t.Fatalf("no pid in %v", s.Reading)
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("process %d is still there: %v", pid, err)
	}
}

func TestProcess_DeafToSignals_KilledAllTheSame(t *testing.T) {
	r := played(t, "deaf").Open()
	s, err := r.Next(soon(t), 3)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	gone(t, s)
}

func TestProcess_Crashes_ReasonTold(t *testing.T) {
	stats := played(t, "crash")
	r := stats.Open()
	defer r.Close()
	// The second child proves that the first has ended.
	s, err := r.Next(soon(t), 3)
	if err != nil {
		t.Fatal(err)
	}
	if s.Reading.RAMUsed > 3*mib {
		t.Errorf("a cut line was read: %v", s.Reading)
	}
	err = stats.attend(soon(t))
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "cannot go on") {
		t.Errorf("reason: %v", err)
	}
}

func TestProcess_Garbage_SteppedOver(t *testing.T) {
	r := played(t, "garbage").Open()
	defer r.Close()
	s, err := r.Next(soon(t), 3)
	if err != nil || s.Reading.RAMTotal != 7620*mib {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestProcess_NoSuchProgram_ErrorNotPanic(t *testing.T) {
	err := NewTegrastats(TegrastatsConfig{Path: "/nonexistent/tegrastats"}).attend(t.Context())
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestProcess_ParentKilled_ChildDiesWithIt(t *testing.T) {
	selfStarting(t)
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), fakeVariable+"=parent")
	parent.Stdout = out
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // however the test ends
		_ = parent.Process.Kill()
		_ = parent.Wait()
	})
	out.Close()
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil || line != "up\n" {
		t.Fatalf("parent said %q, %v", line, err)
	}
	children := childrenOf(t, parent.Process.Pid)
	if len(children) != 1 {
		t.Fatalf("the parent has children %v", children)
	}
	// A file descriptor of the child becomes readable when it ends.
	fd, err := unix.PidfdOpen(children[0], 0)
	if err != nil {
		t.Skipf("pidfd_open: %v", err)
	}
	defer unix.Close(fd)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	limit := time.Now().Add(10 * time.Second)
	n, err := 0, error(unix.EINTR)
	for err == unix.EINTR { // the parent's end interrupts, as SIGCHLD
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, max(0, int(time.Until(limit).Milliseconds())))
	}
	if n != 1 {
		t.Errorf("the child outlives its parent: %d, %v", n, err)
		_ = unix.Kill(children[0], unix.SIGKILL)
	}
}

// childrenOf reads the children that the threads of a process have made.
func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	var out []int
	for _, path := range glob("/", fmt.Sprintf("proc/%d/task/*/children", pid)) {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		text, _ := io.ReadAll(f)
		f.Close()
		for field := range strings.FieldsSeq(string(text)) {
			var n int
			if _, err := fmt.Sscan(field, &n); err == nil {
				out = append(out, n)
			}
		}
	}
	if out == nil {
		t.Skip("the kernel does not list children (CONFIG_PROC_CHILDREN)")
	}
	return out
}

func TestProbe_Conformance(t *testing.T) {
	t.Run("procfs", func(t *testing.T) {
		tiertest.TestProbe(t, func(t *testing.T) tier.MemoryProbe {
			b := fixtureOrinNano8.detect(t)
			b.stats = played(t, "lines")
			return b.Probe()
		})
	})
	t.Run("tegrastats", func(t *testing.T) {
		tiertest.TestProbe(t, func(t *testing.T) tier.MemoryProbe {
			b := fixtureOrinNano8.detect(t)
			if err := os.Remove(b.path("proc", "meminfo")); err != nil {
				t.Fatal(err)
			}
			b.stats = played(t, "lines")
			return b.Probe()
		})
	})
	t.Run("nothing but procfs", func(t *testing.T) {
		tiertest.TestProbe(t, func(t *testing.T) tier.MemoryProbe {
			b := fixtureOrinNano8.detect(t)
			b.stats = NewTegrastats(TegrastatsConfig{Path: "/nonexistent/tegrastats"})
			return b.Probe()
		})
	})
}
