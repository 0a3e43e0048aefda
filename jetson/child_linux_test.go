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
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/modeltier/modeltier/tier"
	"github.com/modeltier/modeltier/tier/tiertest"
)

// With this variable the test binary is a fake tegrastats; its value is the behaviour.
const fakeVariable = "MODELTIER_FAKE_TEGRASTATS"

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "descendant" {
		os.Exit(descendant(os.Args[2], os.Args[3]))
	}
	if how := os.Getenv(fakeVariable); how != "" {
		os.Exit(fake(how, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// fake prints lines to standard output until it is ended.
func fake(how string, args []string) int {
	switch how {
	case "parent":
		return fakeParent()
	case "init":
		return fakeInit()
	}
	if strings.Join(args, " ") != "--interval 100" {
		fmt.Printf("unknown option %q\n", args)
		return 2
	}
	folder, breed := os.Getenv(folderVariable), strings.Fields(os.Getenv(breedVariable))
	for _, kind := range breed {
		beget(folder, kind)
	}
	for born(folder) < len(breed) {
		time.Sleep(time.Millisecond)
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
		case "closes":
			signal.Ignore(syscall.SIGTERM)
			os.Stdout.Close()
			os.Stderr.Close()
			select {}
		case "leave":
			return 0
		case "garbage":
			fmt.Print("\x00\x01garbage\n\n", strings.Repeat("z", 100_000), "\n")
		case "silent":
			select {}
		}
	}
}

// The fake starts a descendant of each kind in the first variable, and prints once each
// of them has a file named after its number in the folder of the second.
const (
	breedVariable  = "MODELTIER_FAKE_BREED"
	folderVariable = "MODELTIER_FAKE_FOLDER"
)

// beget starts a descendant, which ignores SIGTERM. Its kind is words joined by "+":
// "group" and "session" lead one, "bare" has no environment, "mute" no output, and the
// parent of "twice" exits.
func beget(folder, kind string) {
	c := exec.Command(os.Args[0], "descendant", folder, kind)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: strings.Contains(kind, "group"), Setsid: strings.Contains(kind, "session")}
	if strings.Contains(kind, "bare") {
		c.Env = []string{}
	}
	if !strings.Contains(kind, "mute") {
		c.Stdout = os.Stdout
	}
	if err := c.Start(); err != nil {
		panic(err)
	}
}

func descendant(folder, kind string) int {
	signal.Ignore(syscall.SIGTERM, syscall.SIGPIPE, syscall.SIGHUP)
	if rest, ok := strings.CutPrefix(kind, "twice+"); ok {
		beget(folder, rest)
		return 0
	}
	if err := os.WriteFile(filepath.Join(folder, strconv.Itoa(os.Getpid())), nil, 0o600); err != nil {
		return 1
	}
	select {}
}

// born returns how many descendants have started.
func born(folder string) int {
	if folder == "" {
		return 0
	}
	files, _ := os.ReadDir(folder)
	return len(files)
}

// fakeInit acts as the first process of a container: it adopts orphans.
func fakeInit() int {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Println("failed:", err)
		return 1
	}
	os.Setenv(fakeVariable, "lines")
	r := NewTegrastats(TegrastatsConfig{Path: os.Args[0], Interval: 1}).Open()
	if _, err := r.Next(context.Background(), 0); err != nil {
		fmt.Println("failed:", err)
		return 1
	}
	r.Close()
	fmt.Println("closed")
	select {}
}

// breeding makes the fake start such descendants. Those alive at the end of the test
// are killed.
func breeding(t *testing.T, kinds string) (folder string) {
	t.Helper()
	folder = t.TempDir()
	t.Setenv(folderVariable, folder)
	t.Setenv(breedVariable, kinds)
	t.Cleanup(func() {
		for pid := range descendants(t, folder) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	})
	return folder
}

// descendants returns the kinds of the living descendants.
func descendants(t *testing.T, folder string) map[int]string {
	t.Helper()
	alive := make(map[int]string)
	files, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		pid, err := strconv.Atoi(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		if command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.Contains(string(command), folder) {
			alive[pid] = strings.Split(string(command), "\x00")[3]
		}
	}
	return alive
}

// checkEnded checks that no descendant is alive. left is what the end reported: on a
// machine so busy that killed processes need seconds to exit, it waits for them.
func checkEnded(t *testing.T, folder string, left error) {
	t.Helper()
	for pid, kind := range descendants(t, folder) {
		if left == nil || !ends(t, pid, time.Minute) {
			t.Errorf("%s is alive (of %d processes): %v", kind, born(folder), left)
		}
	}
}

func TestProcess_WhateverItStarted_EndedByClose(t *testing.T) {
	kinds := "plain mute group group+bare session session+mute twice+session twice+session+mute twice+group+bare twice+twice+session"
	for how, kinds := range map[string]string{
		"lines": kinds + " bare session+bare",
		"deaf":  kinds + " bare session+bare",
		"leave": kinds, // without parent and environment nothing identifies a session+bare
	} {
		t.Run(how, func(t *testing.T) {
			folder := breeding(t, kinds)
			r := played(t, how).Open()
			if _, err := r.Next(soon(t), 0); err != nil {
				t.Fatal(err)
			}
			checkEnded(t, folder, r.Close())
		})
	}
}

// A restart leaves no descendants behind either.
func TestProcess_EndedForSilence_ItsDescendantsToo(t *testing.T) {
	folder := breeding(t, "twice+session plain")
	stats := played(t, "silent")
	stats.cfg.Silence = 300 * time.Millisecond
	if err := stats.attend(soon(t)); err == nil || !strings.Contains(err.Error(), "silent") {
		t.Errorf("%v", err)
	}
	checkEnded(t, folder, stats.left)
}

// The descendants of another Tegrastats, and a process with a number of an earlier
// one.
func TestProcess_OtherProcesses_LeftAlone(t *testing.T) {
	folder := breeding(t, "session")
	other := played(t, "lines").Open()
	defer other.Close()
	if _, err := other.Next(soon(t), 0); err != nil {
		t.Fatal(err)
	}
	t.Setenv(breedVariable, "")
	r := played(t, "lines").Open()
	if _, err := r.Next(soon(t), 0); err != nil {
		t.Fatal(err)
	}
	r.Close()
	alive := descendants(t, folder)
	if len(alive) != 1 {
		t.Fatalf("alive: %v", alive)
	}
	for pid := range alive {
		identity{pid: pid, start: 1}.kill()
		if ends(t, pid, 100*time.Millisecond) {
			t.Error("a process was killed for its number")
		}
	}
}

// Once the host has reaped the child, another process may have its number.
func TestProcess_ReapedByTheHost_DescendantsEndedAndTheNumberNotUsed(t *testing.T) {
	folder := breeding(t, "session")
	c, err := played(t, "leave").start(os.Args[0], "--interval", "100")
	if err != nil {
		t.Fatal(err)
	}
	p := c.(*process)
	if _, err := unix.Wait4(p.cmd.Process.Pid, nil, 0, nil); err != nil {
		t.Fatal(err)
	}
	stranger := exec.Command(os.Args[0], "descendant", t.TempDir(), "plain")
	stranger.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer stranger.Wait()
	defer stranger.Process.Kill()
	p.descent.leader = identity{stranger.Process.Pid, p.descent.leader.start - 1} // as if its number had gone to the stranger
	left, _ := c.end()
	checkEnded(t, folder, left)
	if !isChild(stranger.Process.Pid, unix.WNOHANG) {
		t.Error("the stranger is gone")
	}
}

func TestProcess_HostIsInit_NoZombiesStay(t *testing.T) {
	selfStarting(t)
	breeding(t, "twice+session twice+plain twice+session+mute")
	host := exec.Command(os.Args[0])
	host.Env = append(os.Environ(), fakeVariable+"=init")
	out, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	defer host.Wait()
	defer host.Process.Kill()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "closed\n" {
		t.Fatalf("the host said %q, %v", line, err)
	}
	all, err := procfs.AllProcs()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if s, err := p.Stat(); err == nil && s.PPID == host.Process.Pid {
			t.Errorf("the host has a child: %d %s, state %s", s.PID, s.Comm, s.State)
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

// selfStarting skips a test if the test binary cannot start itself: under an emulator
// that is not registered with the kernel.
func selfStarting(t *testing.T) {
	t.Helper()
	if err := exec.Command(os.Args[0], "-test.run=^$").Run(); errors.Is(err, syscall.ENOEXEC) {
		t.Skipf("the test binary runs under an emulator and cannot start itself: %v", err)
	}
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
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

// gone checks that the process that printed the sample has ended.
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

func TestProcess_IgnoresSIGTERMOrClosesItsOutput_Killed(t *testing.T) {
	for _, how := range []string{"deaf", "closes"} {
		r := played(t, how).Open()
		s, err := r.Next(soon(t), 0)
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		gone(t, s)
	}
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

func TestProcess_Garbage_Skipped(t *testing.T) {
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
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if !ends(t, children[0], 10*time.Second) {
		t.Error("the child outlives its parent")
		_ = unix.Kill(children[0], unix.SIGKILL)
	}
}

// ends reports whether the process ends within the time.
func ends(t *testing.T, pid int, within time.Duration) bool {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return true
	}
	if err != nil {
		t.Skipf("pidfd_open: %v", err)
	}
	defer unix.Close(fd)
	limit := time.Now().Add(within)
	n, err := 0, error(unix.EINTR)
	for err == unix.EINTR { // SIGCHLD interrupts
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, max(0, int(time.Until(limit).Milliseconds())))
	}
	return n == 1
}

// childrenOf returns the children of a process.
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
