package ctl

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// busyStatus is a status with one of everything that is shown.
func busyStatus(t *testing.T) string {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ram := func(name string, b tier.Bytes) modeltier.ModelStatus {
		return modeltier.ModelStatus{Name: name, Size: b, Tier: tier.RAM, Home: tier.RAM, ChargedRAM: b, Present: b}
	}
	used := ram("used", 3*gib/2)
	used.Leases, used.Accesses, used.LastUse, used.Capabilities, used.Aliases = 2, 7, now.Add(-5*time.Second), []string{"chat", "vision"}, []string{"main"}
	used.Runtime, used.Taken, used.Labels, used.Path, used.Parts = gib/4, 2*gib, map[string]string{"quantization": "Q4_K_M"}, "/models/used.gguf", []string{"/models/mmproj.gguf"}
	pinned := ram("pinned", 300*tier.MiB)
	pinned.Pinned, pinned.LastUse, pinned.IdleUntil, pinned.LastError, pinned.LastErrorAt = true, now.Add(-3*time.Hour), now.Add(4*time.Minute), "the engine ended", now.Add(-30*time.Hour)
	kept := modeltier.ModelStatus{Name: "kept", Size: 2 * gib, Tier: tier.Swap, ChargedRAM: gib, ChargedSwap: gib, Present: gib, LastUse: now.Add(-40 * time.Minute)}
	loading := modeltier.ModelStatus{Name: "loading", Size: 3 * gib, Home: tier.RAM, Moving: true, To: tier.RAM, Waiters: 1, Present: -1, Waiting: &tier.Waiting{
		Model: "loading", Phase: tier.Loading, Done: gib, Total: 3 * gib, Left: 4200 * time.Millisecond}}
	queued := modeltier.ModelStatus{Name: "queued", Size: gib, Waiters: 3, Present: -1, Waiting: &tier.Waiting{
		Model: "queued", Phase: tier.Queued, Position: 1, Behind: []string{"loading"}}}
	going := ram("going", gib)
	going.Moving, going.To = true, tier.Storage
	broken := modeltier.ModelStatus{Name: "broken\x1b[31m", Size: gib, Present: -1, Quarantine: &tier.DigestError{Path: "/models/broken", Want: "a", Got: "b"}}
	text, err := json.Marshal(&modeltier.Status{
		At: now, Limits: tier.Limits{RAM: 8 * gib, Swap: 10 * gib, Reserved: gib, MaxModel: 10 * gib},
		RAM:  modeltier.TierStatus{Used: 7 * gib, Limit: 8 * gib, Room: gib},
		Swap: modeltier.TierStatus{Used: gib, Limit: 10 * gib, Room: 9 * gib},
		Memory: tier.Memory{Total: 16 * gib, Available: 6 * gib, Pressure: tier.Pressure{
			Level: tier.PressureHigh}},
		Models:       []modeltier.ModelStatus{used, pinned, kept, loading, queued, going, broken, {Name: "cold", Size: gib, Present: -1}},
		Reservations: []modeltier.ReservationStatus{{ID: "r-1", Reason: "a game", Bytes: gib, Until: now.Add(time.Hour)}, {ID: "r-2", Bytes: gib}},
		Moves:        []modeltier.MoveStatus{{Model: "going", From: tier.RAM, To: tier.Storage, Started: true, Progress: modeltier.Progress{Fraction: 0.5}}},
		Waiting:      4,
		Parts: map[string]any{"probe": 7, "mover": map[string]any{"engines": []map[string]any{
			{"name": "used", "state": "running", "pid": 42, "url": "http://127.0.0.1:39173"},
			{"name": "pinned", "state": "frozen", "standby": "kept", "note": "as it should be"},
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestLook_BusyServer_IsShown(t *testing.T) {
	run := at(t, answering(t, http.StatusOK, "application/json", busyStatus(t)))
	for name, args := range map[string]string{
		"ps": "ps", "ps_json": "ps --json", "ls": "ls", "show": "show main", "show_pinned": "show pinned", "limits": "limits", "limits_json": "-json limits",
	} {
		got := run(strings.Fields(args)...)
		if got.code != exitDone {
			t.Errorf("%s exits with %d: %s", args, got.code, got.stderr)
		}
		golden(t, name, got)
	}
}

func TestLook_JSON_HasWhatTheServerSays(t *testing.T) {
	// A key that this command does not know is of a newer server.
	run := at(t, answering(t, http.StatusOK, "application/json", `{"at": "2026-03-01T12:00:00Z", "models": [{"name": "a", "size": 1, "tier": "ram", "new_key": [1]}], "moves": null}`))
	for _, args := range [][]string{{"ps", "--json"}, {"ls", "--json"}} {
		got := decode[struct {
			Models []struct {
				NewKey []int `json:"new_key"`
			}
		}](t, run(args...))
		if len(got.Models) != 1 || len(got.Models[0].NewKey) != 1 {
			t.Errorf("%v: %+v", args, got)
		}
	}
	if got := decode[struct {
		NewKey []int `json:"new_key"`
	}](t, run("show", "a", "--json")); len(got.NewKey) != 1 {
		t.Errorf("show: %+v", got)
	}
}

func TestLook_NothingInMemory_SaysHowToLoad(t *testing.T) {
	l := serveModels(t)
	run := at(t, l.url)
	golden(t, "ps_nothing", run("ps"))
	golden(t, "ls_nothing_used", run("ls"))
	run = at(t, answering(t, http.StatusOK, "application/json", `{"at": "2026-03-01T12:00:00Z", "models": null}`))
	golden(t, "ls_no_models", run("ls"))
	// A program goes through lists, also where there is nothing in them.
	for args, lists := range map[string][]string{"ps": {"models", "moves", "reservations"}, "ls": {"models", "left_out", "aliases"}} {
		got := decode[map[string]any](t, run(args, "--json"))
		for _, list := range lists {
			if got[list] == nil {
				t.Errorf("%s of %s is null", list, args)
			}
		}
	}
}

func TestShow_MistypedModel_SuggestsTheNearest(t *testing.T) {
	run := at(t, serveModels(t).url)
	got := run("show", "smal")
	if got.code != exitFailed || !strings.Contains(got.stderr, "'smal' not found (not_found)") || !strings.Contains(got.stderr, "Did you mean small?") {
		t.Errorf("%+v", got)
	}
}
