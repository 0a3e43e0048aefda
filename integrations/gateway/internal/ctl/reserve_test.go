package ctl

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func reserved(l *live) int { return len(l.Status().Reservations) }

func TestReserve_HoldsUntilItEnds(t *testing.T) {
	l := serveModels(t)
	at(t, l.url)
	ctx, cancel := context.WithCancelCause(t.Context())
	done, said := make(chan outcome, 1), &output{}
	go func() { done <- modeltierSaying(ctx, said, "reserve", "2GB", "--reason", "a game") }()
	until20s(t, "the room is given", func() bool { return strings.Contains(said.String(), "is yours") })
	if r := l.Status().Reservations[0]; r.Bytes != 2*gib || r.Reason != "a game" {
		t.Errorf("%+v", r)
	}
	cancel(interrupted{os.Interrupt})
	got := <-done
	if got.code != exitDone || got.out != "2.0 GiB is yours, until Ctrl-C\n" || !strings.HasSuffix(got.stderr, "2.0 GiB is given back\n") {
		t.Errorf("%+v", got)
	}
	until20s(t, "the room is given back", func() bool { return reserved(l) == 0 })
}

func TestReserve_Refused_SaysWhy(t *testing.T) {
	run := at(t, serveModels(t).url)
	if got := run("reserve", "20GB"); got.code != exitFailed || !strings.Contains(got.stderr, "(too_large)") {
		t.Errorf("%+v", got)
	}
	for _, wrong := range []string{"reserve", "reserve 4", "reserve 0", "reserve 4GB game", "reserve -- game", "reserve 4GB --", "reserve 4GB 5GB -- game", "reserve 1GB --for -1s", "reserve 1GB -- no-such-program-at-all"} {
		if got := run(strings.Fields(wrong)...); got.code != exitUsage {
			t.Errorf("%s: %+v", wrong, got)
		}
	}
}

func TestReserve_Command_RunsInsideAndItsCodeCounts(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip(err)
	}
	l := serveModels(t)
	run := at(t, l.url)
	// The room is seen from inside: the command waits for what the test says.
	dir := t.TempDir()
	done := make(chan outcome, 1)
	go func() {
		done <- run("reserve", "2GB", "--", "sh", "-c", "echo inside; cd "+dir+"; until [ -e go ]; do sleep 0.02; done; exit 7")
	}()
	until20s(t, "the room is given", func() bool { return reserved(l) == 1 })
	if r := l.Status().Reservations[0]; r.Reason != "sh" {
		t.Errorf("%+v", r)
	}
	if err := os.WriteFile(dir+"/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := <-done; got.code != 7 || got.out != "inside\n" {
		t.Errorf("%+v", got)
	}
	until20s(t, "the room is given back", func() bool { return reserved(l) == 0 })
	if got := run("reserve", "1GB", "--", "sh", "-c", "kill -9 $$"); got.code != 128+9 {
		t.Errorf("%+v", got)
	}
}

func TestReserve_ServerEnds_IsTold(t *testing.T) {
	l := serveModels(t)
	run := at(t, l.url)
	done := make(chan outcome, 1)
	go func() { done <- run("reserve", "2GB") }()
	until20s(t, "the room is given", func() bool { return reserved(l) == 1 })
	l.Close()
	if got := <-done; got.code != exitFailed || !strings.Contains(got.stderr, "(reservation_ended)") {
		t.Errorf("%+v", got)
	}
}

func TestReserve_ItsTime_IsAnOrderlyEnd(t *testing.T) {
	l := serveModels(t)
	run := at(t, l.url)
	if got := run("reserve", "2GB", "--for", "200ms", "--json"); got.code != exitDone || !strings.Contains(got.out, `"expires_in": 0.2`) {
		t.Errorf("%+v", got)
	}
}
