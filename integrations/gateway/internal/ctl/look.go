package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/tier"
)

// status is what is shown of GET /status. keys is all that it has, and raw what it has of
// each model, for --json.
type status struct {
	At           time.Time                     `json:"at"`
	Limits       tier.Limits                   `json:"limits"`
	RAM          modeltier.TierStatus          `json:"ram"`
	Swap         modeltier.TierStatus          `json:"swap"`
	Memory       tier.Memory                   `json:"memory"`
	MemoryError  string                        `json:"memory_error"`
	Models       []modeltier.ModelStatus       `json:"models"`
	Reservations []modeltier.ReservationStatus `json:"reservations"`
	Moves        []modeltier.MoveStatus        `json:"moves"`
	Waiting      int                           `json:"waiting"`
	Parts        map[string]json.RawMessage    `json:"parts"`

	keys map[string]json.RawMessage
	raw  []json.RawMessage
}

func (s *session) status(ctx context.Context) (*status, error) {
	text, err := s.get(ctx, "/status")
	if err != nil {
		return nil, err
	}
	st := &status{}
	if err := json.Unmarshal(text, st); err != nil {
		return nil, failure(exitFailed, "version", fmt.Sprintf("The server's status is not one that this command knows (%v)", err),
			"Use the command of the same version as the server; modeltier version tells this one's.")
	}
	if err := json.Unmarshal(text, &st.keys); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(st.keys["models"], &st.raw); err != nil && st.keys["models"] != nil {
		return nil, err
	}
	return st, nil
}

// some is the status as JSON: those keys of it that it has, and those of its models that
// are kept.
func (st *status) some(keep func(*modeltier.ModelStatus) bool, keys ...string) map[string]any {
	out := make(map[string]any)
	for _, key := range keys {
		v, ok := st.keys[key]
		switch empty, isList := emptyLists[key]; {
		case isList && (!ok || string(v) == "null"):
			out[key] = empty
		case ok:
			out[key] = v
		}
	}
	if keep != nil {
		models := []json.RawMessage{}
		for i := range st.Models {
			if keep(&st.Models[i]) {
				models = append(models, st.raw[i])
			}
		}
		out["models"] = models
	}
	return out
}

// emptyLists are what the server leaves out, or has null for, and a program goes through.
var emptyLists = map[string]json.RawMessage{
	"moves": []byte("[]"), "reservations": []byte("[]"), "left_out": []byte("[]"), "aliases": []byte("{}"),
}

// model returns the one of that name or alias.
func (st *status) model(name string) (*modeltier.ModelStatus, bool) {
	for i := range st.Models {
		if m := &st.Models[i]; m.Name == name || slices.Contains(m.Aliases, name) {
			return m, true
		}
	}
	return nil, false
}

func (st *status) move(model string) *modeltier.MoveStatus {
	for i := range st.Moves {
		if st.Moves[i].Model == model {
			return &st.Moves[i]
		}
	}
	return nil
}

func (o *options) ps() spec {
	return spec{
		use: "ps", also: []string{"status", "top", "running"}, short: "Show what is in memory or on its way, and the room that is left",
		long: `Shows the models that are in ram or in swap, that move, or that requests wait for, and
room that other programs have. IN MEMORY is what is charged to ram for a model.`,
		run: func(ctx context.Context, s *session, _ []string) error {
			st, err := s.status(ctx)
			if err != nil {
				return err
			}
			active := func(m *modeltier.ModelStatus) bool {
				return m.Tier != tier.Storage || m.Moving || m.Stuck || m.Waiters > 0 || m.Leftover > 0
			}
			if s.json {
				return writeJSON(s.out, st.some(active, "at", "limits", "ram", "swap", "moves", "reservations", "waiting"))
			}
			rows := [][]string{{"NAME", "TIER", "SIZE", "IN MEMORY", "STATE", "LAST USE", "LEAVES"}}
			for i := range st.Models {
				m := &st.Models[i]
				if !active(m) {
					continue
				}
				leaves := ""
				if !m.IdleUntil.IsZero() {
					leaves = until(st.At, m.IdleUntil)
				}
				rows = append(rows, []string{m.Name, m.Tier.String(), m.Size.String(), m.ChargedRAM.String(), st.state(m), ago(st.At, m.LastUse), leaves})
			}
			for _, r := range st.Reservations {
				name, ends := r.Reason, ""
				if name == "" {
					name = "another program"
				}
				if !r.Until.IsZero() {
					ends = until(st.At, r.Until)
				}
				rows = append(rows, []string{"(" + name + ")", "ram", r.Bytes.String(), r.Bytes.String(), "reserved, " + r.ID, "", ends})
			}
			if len(rows) == 1 {
				if len(st.Models) == 0 {
					fmt.Fprintln(s.out, "The server has no models: put GGUF or safetensors files into its folder.")
				} else {
					fmt.Fprintf(s.out, "Nothing is in memory. modeltier ls lists the %s; one is loaded when it is asked for, or by modeltier load NAME.\n", plural(len(st.Models), "model"))
				}
			} else if err := table(s.out, rows); err != nil {
				return err
			}
			st.room(s)
			return nil
		},
	}
}

// room tells what is used and left.
func (st *status) room(s *session) {
	line := fmt.Sprintf("ram %v of %v used, room for %v", st.RAM.Used, limitText(st.Limits.RAM), st.RAM.Room)
	if st.Limits.Swap > 1 {
		line += fmt.Sprintf("; swap %v of %v", st.Swap.Used, st.Limits.Swap)
	}
	if st.Waiting > 0 {
		line += "; " + plural(st.Waiting, "request") + " waiting"
	}
	fmt.Fprintf(s.out, "\n%s\n", line)
	switch {
	case st.MemoryError != "":
		fmt.Fprintf(s.out, "nothing is admitted: the machine's memory cannot be read: %s\n", clean(st.MemoryError))
	case st.Memory.Pressure.Level != 0:
		fmt.Fprintf(s.out, "the machine is short of memory: pressure %v\n", st.Memory.Pressure.Level)
	}
}

// state says in words what a model does.
func (st *status) state(m *modeltier.ModelStatus) string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	mv := st.move(m.Name)
	switch {
	case m.Stuck:
		add("stuck")
	case m.Quarantine != nil:
		add("damaged")
	case m.Waiting != nil:
		add("%s", fromWaiting(m.Waiting).words())
	case mv != nil && mv.Started:
		add("to %v %.0f%%", mv.To, 100*mv.Progress.Fraction)
	case mv != nil:
		add("to %v, queued", mv.To)
	case m.Moving:
		add("to %v", m.To)
	}
	if m.Leases > 0 {
		add("in use by %d", m.Leases)
	}
	if m.Waiters > 0 {
		add("%d waiting", m.Waiters)
	}
	if m.Leftover > 0 {
		add("%v not gone", m.Leftover)
	}
	if out == nil {
		add("idle")
	}
	if m.Pinned {
		add("pinned")
	}
	return strings.Join(out, ", ")
}

func (o *options) ls() spec {
	return spec{
		use: "ls", also: []string{"list", "models"}, short: "List the library",
		long: "Lists every model that the server has. TIER is where it is, HOME where it is meant to be.",
		run: func(ctx context.Context, s *session, _ []string) error {
			st, err := s.status(ctx)
			if err != nil {
				return err
			}
			if s.json {
				return writeJSON(s.out, st.some(func(*modeltier.ModelStatus) bool { return true }, "aliases", "left_out"))
			}
			rows := [][]string{{"NAME", "SIZE", "TIER", "HOME", "LAST USE", "CAPABILITIES"}}
			for i := range st.Models {
				m := &st.Models[i]
				name := m.Name
				if len(m.Aliases) > 0 {
					name += " (" + strings.Join(m.Aliases, ", ") + ")"
				}
				notes := strings.Join(m.Capabilities, ", ")
				if m.Pinned {
					notes += " [pinned]"
				}
				if m.Quarantine != nil {
					notes += " [damaged]"
				}
				rows = append(rows, []string{name, m.Size.String(), m.Tier.String(), m.Home.String(), ago(st.At, m.LastUse), strings.TrimSpace(notes)})
			}
			if len(rows) == 1 {
				fmt.Fprintln(s.out, "The server has no models: put GGUF or safetensors files into its folder.")
				return nil
			}
			return table(s.out, rows)
		},
	}
}

func (o *options) show() spec {
	return spec{
		use: "show MODEL", also: []string{"info", "inspect"}, short: "Show all that is known of a model", least: 1, most: 1, complete: o.completeModels(1),
		run: func(ctx context.Context, s *session, args []string) error {
			st, err := s.status(ctx)
			if err != nil {
				return err
			}
			if m, ok := st.model(args[0]); ok {
				if s.json {
					return writeJSON(s.out, st.raw[slices.IndexFunc(st.Models, func(x modeltier.ModelStatus) bool { return x.Name == m.Name })])
				}
				return table(s.out, st.describe(m))
			}
			var names []string
			for i := range st.Models {
				names = append(append(names, st.Models[i].Name), st.Models[i].Aliases...)
			}
			help := "modeltier ls lists what there is."
			if near := tier.Nearest(args[0], names); len(near) > 0 {
				help = "Did you mean " + strings.Join(near, " or ") + "?"
			}
			return failure(exitFailed, "not_found", fmt.Sprintf("Model '%s' not found", args[0]), help)
		},
	}
}

// describe is a model in rows of a name and a value.
func (st *status) describe(m *modeltier.ModelStatus) (rows [][]string) {
	row := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{name, value})
		}
	}
	bytes := func(b tier.Bytes) string {
		if b <= 0 {
			return ""
		}
		return b.String()
	}
	row("name", m.Name)
	row("aliases", strings.Join(m.Aliases, ", "))
	row("state", st.state(m))
	row("tier", m.Tier.String())
	row("home", m.Home.String())
	row("engine", m.Mover)
	for _, words := range st.engine(m.Name) {
		row("program", words)
	}
	row("weights", m.Size.String())
	row("runtime", bytes(m.Runtime))
	row("charged to ram", m.ChargedRAM.String())
	row("charged to swap", bytes(m.ChargedSwap))
	row("left in storage", bytes(m.Left))
	row("seen in memory", bytes(m.Present))
	row("takes in all", bytes(m.Taken))
	row("cached", bytes(m.Cached))
	row("not gone", bytes(m.Leftover))
	used := "never"
	if m.Accesses > 0 {
		used = plural(int(m.Accesses), "time") + ", last " + ago(st.At, m.LastUse)
	}
	row("used", used)
	if !m.IdleUntil.IsZero() {
		row("leaves", until(st.At, m.IdleUntil)+" if it is not used")
	}
	row("capabilities", strings.Join(m.Capabilities, ", "))
	for _, key := range slices.Sorted(maps.Keys(m.Labels)) {
		if key != tier.ProjectorLabel {
			row(key, m.Labels[key])
		}
	}
	row("version", m.Version)
	row("older version of", m.VersionOf)
	row("file", m.Path)
	for _, part := range m.Parts {
		row("and", part)
	}
	if q := m.Quarantine; q != nil {
		row("damaged", q.Error())
	}
	if m.LastError != "" {
		row("last error", m.LastError+" ("+ago(st.At, m.LastErrorAt)+")")
	}
	return rows
}

// engine says what the movers tell of the program that serves a model.
func (st *status) engine(model string) (words []string) {
	for _, key := range slices.Sorted(maps.Keys(st.Parts)) {
		var part struct {
			Engines []struct {
				Name, State, Standby, Note, URL string
				PID                             int
			}
		}
		// What is no mover of programs has another shape.
		if !strings.HasPrefix(key, "mover") || json.Unmarshal(st.Parts[key], &part) != nil {
			continue
		}
		for _, e := range part.Engines {
			if e.Name != model {
				continue
			}
			line := e.State
			if e.Standby != "" && e.Standby != e.State {
				line += ", " + e.Standby
			}
			if e.PID != 0 {
				line += fmt.Sprintf(", process %d", e.PID)
			}
			if e.URL != "" {
				line += ", " + e.URL
			}
			words = append(words, line)
			if e.Note != "" {
				words = append(words, e.Note)
			}
		}
	}
	return words
}

// loading is how far a model is that a request waits for, or a job.
type loading struct {
	Model    string     `json:"model"`
	Phase    string     `json:"phase"`
	Position int        `json:"position"`
	Behind   []string   `json:"behind"`
	Progress float64    `json:"progress"`
	Done     tier.Bytes `json:"bytes_done"`
	Total    tier.Bytes `json:"bytes_total"`
	Left     float64    `json:"time_left"` // seconds; 0: unknown
}

func fromWaiting(w *tier.Waiting) *loading {
	l := &loading{Model: w.Model, Phase: w.Phase.String(), Position: w.Position, Behind: w.Behind, Done: w.Done, Total: w.Total, Left: w.Left.Seconds()}
	if w.Total > 0 {
		l.Progress = min(float64(w.Done)/float64(w.Total), 0.99)
	}
	return l
}

// words says how far it is, without the model.
func (l *loading) words() string {
	out := l.Phase
	if l.Phase != tier.Starting.String() { // all bytes are read by then
		if l.Progress > 0 || l.Total > 0 {
			out += " " + strconv.Itoa(int(100*l.Progress)) + "%"
		}
		if l.Total > 0 {
			out += fmt.Sprintf(" of %v", l.Total)
		}
	}
	if l.Position > 0 && len(l.Behind) > 0 {
		out += " behind " + strings.Join(l.Behind, ", ")
	} else if len(l.Behind) > 0 {
		out += ", " + strings.Join(l.Behind, ", ") + " leaving"
	}
	if l.Left >= 0.1 {
		out += ", " + seconds(l.Left) + " left"
	}
	return out
}

// loading asks how far a model is that is waited for; nil: that is not told now.
func (s *session) loading(ctx context.Context, model string) *loading {
	// Of the server's pages this costs the least; one without it has the whole status.
	if text, err := s.get(ctx, "/v1/models/"+url.PathEscape(model)); err == nil {
		var page struct {
			Loading *loading `json:"loading"`
		}
		if json.Unmarshal(text, &page) == nil {
			return page.Loading
		}
	}
	st, err := s.status(ctx)
	if err != nil {
		return nil
	}
	if m, ok := st.model(model); ok && m.Waiting != nil {
		return fromWaiting(m.Waiting)
	}
	return nil
}
