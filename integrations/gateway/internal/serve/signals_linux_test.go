package serve

import (
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/modeltier/modeltier/integrations/gateway/internal/enginetest"
	"github.com/prometheus/procfs"
)

// boss is a supervisor's end of the socket that NOTIFY_SOCKET names.
type boss struct{ *net.UnixConn }

func newBoss(t *testing.T) (b boss, socket string) {
	t.Helper()
	socket = "@modeltier-test-" + rand.Text()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return boss{conn}, socket
}

// wants reads the states that the server tells next.
func (b boss) wants(t *testing.T, states ...string) {
	t.Helper()
	b.SetReadDeadline(time.Now().Add(time.Minute))
	for _, want := range states {
		buf := make([]byte, 100)
		n, err := b.Read(buf)
		if got := string(buf[:n]); err != nil || got != want {
			t.Fatalf("the supervisor is told %q, %v, want %q", got, err, want)
		}
	}
}

func TestChild_Hangup_ReloadsAndNeverEnds(t *testing.T) {
	bin := build(t)
	b, err := os.ReadFile(filepath.Join(made.Dir, "gpt2-small.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"the demo":              {"demo", "-scale", "4096", "-engine", "none"},
		"a folder":              {"serve", "-models", "FOLDER"},
		"a folder with engines": {"serve", "-models", "FOLDER", "-engine", fakeCommand()},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			add := func(file string) {
				t.Helper()
				if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			add("first.gguf")
			args := append(slices.Clone(args), "-addr", "127.0.0.1:0", "-state", "none")
			folder := args[2] == "FOLDER"
			if folder {
				args[2] = dir
			}
			supervisor, socket := newBoss(t)
			cmd := program(t.Context(), bin, t.TempDir(), args...)
			cmd.Env = append(cmd.Env, notifyVariable+"="+socket)
			c := launch(t, cmd)
			supervisor.wants(t, ready)
			add("second.gguf")
			for range 2 {
				if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
					t.Fatal(err)
				}
				supervisor.wants(t, reloading, ready)
			}
			if models := text(c.do(t, "GET", "/v1/models", "")); folder && !strings.Contains(models, `"second"`) {
				t.Errorf("the new file was not taken up: %s", models)
			}
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			supervisor.wants(t, stopping)
			if c.wait(); cmd.ProcessState.ExitCode() != 0 {
				t.Errorf("SIGTERM: %v: %s", cmd.ProcessState, &c.stderr)
			}
			if !folder && !strings.Contains(c.stderr.String(), "not reloaded") {
				t.Errorf("it does not say that there is nothing to reload: %s", &c.stderr)
			}
		})
	}
}

// A terminal, or a supervisor, may signal the whole process group.
func TestChild_GroupIsTerminated_StreamEndsInOrder(t *testing.T) {
	cmd := program(t.Context(), build(t), t.TempDir(), "serve", "-addr", "127.0.0.1:0", "-state", "none", "-models", made.Dir, "-engine", fakeCommand())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c := launch(t, cmd)
	resp, err := http.Post(c.url+"/v1/chat/completions", "application/json", strings.NewReader(`{"model":"gpt2-small","stream":true,"messages":"long"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM} {
		if err := syscall.Kill(-cmd.Process.Pid, s); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := io.ReadAll(resp.Body); err != nil || !strings.HasSuffix(string(b), "data: 499\n\ndata: [DONE]\n\n") {
		t.Errorf("the stream ends with %q, %v", b[max(len(b)-50, 0):], err)
	}
	if c.wait(); cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("it ends with %v: %s", cmd.ProcessState, &c.stderr)
	}
}

// A program that starts a server may read the line that says where it listens, and leave.
func TestChild_ReaderOfItsOutputLeaves_GoesOn(t *testing.T) {
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	supervisor, socket := newBoss(t)
	cmd := program(t.Context(), build(t), t.TempDir(), "serve", "-addr", "127.0.0.1:0", "-state", "none", "-models", made.Dir)
	cmd.Env = append(cmd.Env, notifyVariable+"="+socket)
	cmd.Stdout, cmd.Stderr = in, in
	err = cmd.Start()
	in.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	supervisor.wants(t, ready)
	out.Close()
	for range 2 { // each says that nothing has changed
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		supervisor.wants(t, reloading, ready)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	supervisor.wants(t, stopping)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestChild_FolderChanges_IsTakenUp(t *testing.T) {
	bin, dir := build(t), t.TempDir()
	b, err := os.ReadFile(filepath.Join(made.Dir, "gpt2-small.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	first, second := filepath.Join(dir, "first.gguf"), filepath.Join(dir, "second.gguf")
	if err := os.WriteFile(first, b, 0o600); err != nil {
		t.Fatal(err)
	}
	c := launch(t, program(t.Context(), bin, t.TempDir(), "serve", "-addr", "127.0.0.1:0", "-state", "none", "-models", dir))
	wants := func(name string, there bool) {
		t.Helper()
		await(t, func() (string, bool) {
			models := text(c.do(t, "GET", "/v1/models", ""))
			return fmt.Sprintf("%s is wanted: %v, in %s", name, there, models), strings.Contains(models, `"`+name+`"`) == there
		})
	}
	if err := os.WriteFile(second, b, 0o600); err != nil {
		t.Fatal(err)
	}
	wants("second", true)
	if err := os.Remove(first); err != nil {
		t.Fatal(err)
	}
	wants("first", false)
}

// await waits until something is so, and says what is if it takes too long.
func await(t *testing.T, is func() (string, bool)) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		what, so := is()
		if so {
			return
		}
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// children returns the processes whose parent pid is, with their states.
func children(t *testing.T, pid int) map[int]string {
	t.Helper()
	all, err := procfs.AllProcs()
	if err != nil {
		t.Fatal(err)
	}
	states := make(map[int]string)
	for _, p := range all {
		if s, err := p.Stat(); err == nil && s.PPID == pid {
			states[s.PID] = s.State
		}
	}
	return states
}

// only returns the one child of a process.
func only(t *testing.T, pid int) int {
	t.Helper()
	states := children(t, pid)
	for child := range states {
		if len(states) == 1 {
			return child
		}
	}
	t.Fatalf("process %d has the children %v, want one", pid, states)
	return 0
}

func TestChild_FirstProcessOfAContainer_ReapsWhatEnginesLeave(t *testing.T) {
	bin, left := build(t), filepath.Join(t.TempDir(), "left")
	unshare := []string{"unshare", "--kill-child", "--pid", "--fork", "--mount-proc"}
	if os.Geteuid() != 0 {
		unshare = append(unshare, "--user", "--map-root-user")
	}
	if out, err := exec.Command(unshare[0], append(unshare[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("no namespace of processes can be made here: %v: %s", err, out)
	}
	// The engine leaves three orphans, of which the last has ended when the file exists.
	engine := strings.Join(enginetest.Env, " ") + ` sh -c '(true &); (sleep 0.01 &); (: >"$1" &); exec "$0"' ` + quoted(os.Args[0]) + " " + quoted(left)
	cmd := program(t.Context(), unshare[0], t.TempDir(), append(unshare[1:], bin,
		"serve", "-addr", "127.0.0.1:0", "-state", "none", "-models", made.Dir, "-engine", engine)...)
	c := launch(t, cmd)
	first := only(t, cmd.Process.Pid)
	if a := c.do(t, "POST", "/v1/completions", `{"model":"gpt2-small"}`); a["error"] != nil {
		t.Fatal(a)
	}
	await(t, func() (string, bool) {
		_, err := os.Stat(left)
		now := children(t, first)
		return fmt.Sprintf("the first process has the children %v, want the server alone; %v", now, err), err == nil && len(now) == 1
	})

	// How an engine ended is the server's to know.
	resp, err := http.Post(c.url+"/v1/chat/completions", "application/json", strings.NewReader(`{"model":"gpt2-small","stream":true,"messages":"die"}`))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("a cut stream looks whole: %s", b)
	}
	resp.Body.Close()
	await(t, func() (string, bool) {
		status := text(c.do(t, "GET", "/status", ""))
		return "the end of the engine is not noticed: " + status, strings.Contains(status, `"state":"stopped"`)
	})
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM} {
		if err := syscall.Kill(first, s); err != nil {
			t.Fatal(err)
		}
	}
	if c.wait(); cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("SIGTERM: %v: %s", cmd.ProcessState, &c.stderr)
	}
	if !strings.Contains(c.stderr.String(), "exit status 3") {
		t.Errorf("it does not know how the engine ended: %s", &c.stderr)
	}
}
