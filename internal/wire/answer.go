package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// selectionTarget is how long choosing may take before an answer's
// performance_target_met is false.
const selectionTarget = 10 * time.Millisecond

// maxNames bounds available_models in an error.
const maxNames = 1000

// Error answers any request but a selection that failed.
func Error(err error) []byte {
	return object(nil).text("status", "error").text("reason", err.Error()).failure(err).end()
}

// failure adds what follows the reason of an error.
func (o object) failure(err error) object {
	o = o.text("code", tier.Code(err)).list("suggestions", tier.Suggestions(err))
	if busy, ok := errors.AsType[*tier.BusyError](err); ok && busy.RetryAfter != 0 {
		o = o.seconds("retry_after", busy.RetryAfter)
	}
	return o
}

// NotSelected answers a Select that failed. chosen is what was chosen before that,
// if anything; took is the time of choosing, without any wait.
func NotSelected(err error, chosen *tier.Choice, took time.Duration, v *tier.View) []byte {
	return object(nil).text("status", "error").text("reason", err.Error()).number("selection_time_ms", milliseconds(took)).
		list("available_models", v.Library.Names(maxNames)).failure(err).explanation(chosen.Explanation).end()
}

// Served is how a Select was answered.
type Served struct {
	Model  tier.Model
	Tier   tier.Tier     // it was served from
	Kept   tier.Bytes    // of the weights, present in memory
	Moved  bool          // weights had to move for it
	Waited time.Duration // for them to move
}

// Selected answers a Select that a model served. took is as for NotSelected.
func Selected(s *Served, chosen *tier.Choice, took time.Duration) []byte {
	if !s.Moved {
		s.Waited = 0
	}
	o := object(nil).text("status", "success").text("model", s.Model.Name).gb("size_gb", s.Model.Size).tier("tier", s.Tier).
		list("capabilities", s.Model.Capabilities).text("selection_reason", chosen.Reason()).
		number("selection_time_ms", milliseconds(took)).flag("swap_executed", s.Moved).seconds("swap_time", s.Waited).
		flag("performance_target_met", took <= selectionTarget)
	if s.Tier == tier.Swap {
		o = o.gb("kept_gb", s.Kept)
	}
	return o.explanation(chosen.Explanation).end()
}

type candidate struct {
	Model    string             `json:"model"`
	Eligible bool               `json:"eligible"`
	Verdict  string             `json:"verdict"`
	Score    float64            `json:"score"`
	Factors  map[string]float64 `json:"factors,omitempty"`
	Expected float64            `json:"expected_s,omitempty"` // until it can be used
}

// explanation adds why a selection came out as it did, if that was asked for.
func (o object) explanation(x *tier.Explanation) object {
	if x == nil {
		return o
	}
	candidates := make([]candidate, len(x.Candidates))
	for i, c := range x.Candidates {
		factors := make(map[string]float64, len(c.Factors))
		for _, f := range c.Factors {
			factors[f.Name] = finite(f.Value)
		}
		candidates[i] = candidate{c.Model, c.Eligible, c.Verdict, finite(c.Score), factors, c.Expected.Seconds()}
	}
	e := object(nil).text("policy", x.Policy).text("priority", x.Priority.String()).value("candidates", candidates)
	if x.Omitted != 0 {
		e = e.whole("omitted", int64(x.Omitted))
	}
	return o.object("explanation", e.end())
}

// finite returns 0 for a number that JSON does not have.
func finite(f float64) float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return 0
	}
	return f
}

// Job is a job as the wire tells of it.
type Job struct {
	ID, Model string
	Kind      string // "load", "promote", "demote", "optimize" or "remove"
	From, To  tier.Tier
	Running   bool
	Err       error // nil while it runs and if it succeeded
	Progress  float64
	Elapsed   time.Duration
	Estimate  time.Duration
}

// HotLoadStarted answers a HotLoad.
func HotLoadStarted(j *Job) []byte {
	return object(nil).text("status", "hot_load_started").job(j).
		text("estimated_time", fmt.Sprintf("%.1fs", j.Estimate.Seconds())).end()
}

// MoveStarted answers a MoveTier, Unload or Remove.
func MoveStarted(j *Job) []byte {
	return object(nil).text("status", "tier_move_started").job(j).move(j).end()
}

// JobStatus answers a JobRef. A cancelled job has failed on the wire.
func JobStatus(ref *JobRef, j *Job) []byte {
	status, running := "success", "running"
	if ref.Load {
		running = "loading"
	}
	switch {
	case j.Running:
		status = running
	case j.Err != nil:
		status = "failed"
	}
	o := object(nil).job(j)
	if ref.Load {
		o = o.text("status", status).number("progress", j.Progress).seconds("elapsed_time", j.Elapsed)
	} else {
		o = o.move(j).number("progress", j.Progress).text("status", status).
			seconds("elapsed_time", j.Elapsed).seconds("estimated_time", j.Estimate)
	}
	if status != "failed" {
		return o.value("error", nil).end()
	}
	return o.text("error", j.Err.Error()).text("code", tier.Code(j.Err)).end()
}

func (o object) job(j *Job) object { return o.text("job_id", j.ID).text("model_name", j.Model) }

// move adds what a job moves. On the wire an optimizer's move is one like any other.
func (o object) move(j *Job) object {
	operation := j.Kind
	switch {
	case operation != "optimize":
	case j.To < j.From:
		operation = "demote"
	default:
		operation = "promote"
	}
	return o.text("operation", operation).tier("source_tier", j.From).tier("target_tier", j.To)
}

const unsafeToLoad = "Unsafe to load: "

// TooLargeToLoad is the error of a hot load above the limit for one model.
func TooLargeToLoad(m *tier.Model, limit tier.Bytes) error {
	return &tier.CapacityError{
		Model: m.Name, Tier: m.Home, Need: m.Size, Limit: limit, Never: true,
		Reason: unsafeToLoad + "Model too large: " + strconv.FormatFloat(m.Size.GB(), 'g', 6, 64) + "GB",
	}
}

// UnsafeToLoad is the error of a hot load that the selector refused with e, in a
// sentence that is made from numbers: e's own is about a selection.
func UnsafeToLoad(m *tier.Model, e *tier.CapacityError, v *tier.View) error {
	what, have := "RAM", v.Memory.Available
	if m.Home != tier.RAM {
		i, _ := v.Library.Find(m.Name)
		what, have = "capacity", have.Plus(v.SwapFor(&v.States[i]))
	}
	unsafe := *e
	if e.Never && m.Size <= have {
		need, limit := e.Need.Apart(e.Limit)
		unsafe.Reason = fmt.Sprintf("%sModel too large: need %sGB, limit %sGB", unsafeToLoad, need, limit)
		return &unsafe
	}
	need, free := m.Size.Apart(have)
	unsafe.Reason = fmt.Sprintf("%sInsufficient %s: need %sGB, have %sGB", unsafeToLoad, what, need, free)
	if m.Size <= have { // there is enough, but one model may not take all of it
		unsafe.Reason += fmt.Sprintf(", of which one model may take %.1fGB", e.Limit.GB())
	}
	return &unsafe
}

// LimitsUpdated answers an UpdateLimits.
func LimitsUpdated(old, now tier.Limits) []byte {
	limits := func(l tier.Limits) object {
		return object(nil).gb("ram_max_gb", l.Of(tier.RAM)).gb("swap_max_gb", l.Of(tier.Swap)).gb("ram_reserved_gb", max(l.Reserved, 0)).end()
	}
	return object(nil).text("status", "success").object("old_limits", limits(old)).object("new_limits", limits(now)).end()
}

// HintTaken answers a Hint.
func HintTaken(model string) []byte {
	return object(nil).text("status", "hint_taken").text("model_name", model).end()
}

// PinSet answers a Pin.
func PinSet(p *Pin) []byte {
	return object(nil).text("status", "success").text("model_name", p.Model).flag("pinned", p.Pinned).end()
}

// AliasSet answers an Alias.
func AliasSet(a *Alias) []byte {
	o := object(nil).text("status", "success").text("alias", a.Name)
	if a.Model == "" {
		return o.value("model_name", nil).end()
	}
	return o.text("model_name", a.Model).end()
}

// RolledBack answers a Rollback to a version.
func RolledBack(model, version string) []byte {
	return object(nil).text("status", "success").text("model_name", model).text("version", version).end()
}

// Reserved answers a Reserve.
func Reserved(id string, granted tier.Bytes, lifetime time.Duration) []byte {
	o := object(nil).text("status", "success").text("reservation", id).gb("granted_gb", granted)
	if lifetime <= 0 {
		return o.value("expires_in", nil).end()
	}
	return o.seconds("expires_in", lifetime).end()
}

// Released answers a Release.
func Released(id string) []byte {
	return object(nil).text("status", "success").text("reservation", id).end()
}

// Reservation is room that an outsider holds.
type Reservation struct {
	ID, Reason   string
	Bytes        tier.Bytes
	Since, Until time.Time // Until is zero if it has no end
}

// Tiers answers TierStatus. limits are those in force: the view's are lower while
// models have yet to leave for lower ones.
func Tiers(v *tier.View, limits tier.Limits, reserved []Reservation) []byte {
	use := func(t tier.Tier, available tier.Bytes) object {
		used, limit, models := v.Charged[t]+v.Reserved[t], limits.Of(t), int64(0)
		for i := range v.States {
			if v.States[i].Tier == t {
				models++
			}
		}
		utilization := 0.0
		if limit > 0 {
			utilization = 100 * float64(used) / float64(limit) / 100 // to the digit what TierStatus.Percent says
		}
		return object(nil).gb("used_gb", used).number("available_gb", available.GB()).gb("limit_gb", limit).
			number("utilization", utilization).whole("models", models).end()
	}
	tiers := object(nil).object("ram", use(tier.RAM, v.Memory.Available)).object("swap", use(tier.Swap, v.FreeSwap)).end()
	o := object(nil).text("status", "success").object("tiers", tiers)
	if len(reserved) > 0 {
		all := make([]json.RawMessage, len(reserved))
		for i, r := range reserved {
			one := object(nil).text("reservation", r.ID).text("reason", r.Reason).gb("gb", r.Bytes).text("since", r.Since.Format(time.RFC3339))
			if !r.Until.IsZero() {
				one = one.text("until", r.Until.Format(time.RFC3339))
			}
			all[i] = json.RawMessage(one.end())
		}
		o = o.value("reservations", all)
	}
	return o.end()
}

// Optimized answers AutoOptimize with the moves that were started.
func Optimized(steps []tier.Step) []byte {
	words := make([]string, len(steps))
	for i, s := range steps {
		words[i] = fmt.Sprintf("Moving %s from %v to %v", s.Model.Name, s.From, s.To)
		if s.From == s.To {
			words[i] = fmt.Sprintf("Keeping %v of %s present in swap", s.Keep, s.Model.Name)
			if s.Leave > 0 {
				words[i] += fmt.Sprintf(", %v in storage", s.Leave)
			}
		}
		if s.Why != "" {
			words[i] += ": " + s.Why
		}
		if s.Gain > 0 {
			words[i] += fmt.Sprintf(" (saves about %.1f s of waiting an hour)", s.Gain)
		}
	}
	return object(nil).text("status", "success").list("optimizations", words).end()
}

// Models answers ListModels. loads is how many hot loads run.
func Models(v *tier.View, loads int64) []byte {
	library := object("{")
	for i, m := range v.Library.All() {
		library = library.object(m.Name, object(nil).gb("size_gb", m.Size).tier("tier", m.Home).
			list("capabilities", m.Capabilities).tier("resident_tier", v.States[i].Tier).labels(m.Labels).lifecycle(v, i).end())
	}
	return object(nil).text("status", "success").object("models", library.end()).
		whole("total_models", int64(v.Library.Len())).whole("active_hot_loads", loads).end()
}

// OpenAIModels is the library as clients of OpenAI's API list it, who want to be told
// since when there is each model.
func OpenAIModels(v *tier.View, since time.Time) []byte {
	entries := []json.RawMessage{}
	for i, m := range v.Library.All() {
		entries = append(entries, json.RawMessage(object(nil).text("id", m.Name).text("object", "model").text("owned_by", "modeltier").
			gb("size_gb", m.Size).list("capabilities", m.Capabilities).tier("tier", m.Home).tier("resident_tier", v.States[i].Tier).whole("created", since.Unix()).labels(m.Labels).lifecycle(v, i).end()))
	}
	return object(nil).value("data", entries).text("object", "list").end()
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Encode is json.Marshal without HTML escaping, so that "a > b" stays readable.
func Encode(v any) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(out.Bytes(), []byte{'\n'}), err
}

// object is a JSON object under construction, whose keys keep their order. It
// encodes as encoding/json does, to the byte, and saves a request for a resident
// model half of its time.
type object []byte

// key adds a key; a value has to follow.
func (o object) key(key string) object {
	switch {
	case o == nil:
		o = append(make(object, 0, 256), '{')
	case len(o) > 1:
		o = append(o, ',')
	}
	return append(o.quote(key), ':')
}

func (o object) text(key, s string) object { return o.key(key).quote(s) }

func (o object) flag(key string, on bool) object { return strconv.AppendBool(o.key(key), on) }

func (o object) whole(key string, n int64) object { return strconv.AppendInt(o.key(key), n, 10) }

// number adds a finite number.
func (o object) number(key string, f float64) object {
	o = o.key(key)
	if size := math.Abs(f); size != 0 && (size < 1e-6 || size >= 1e21) {
		return o.marshal(f) // with an exponent
	}
	return strconv.AppendFloat(o, f, 'f', -1, 64)
}

// gb adds a size in GB, rounded to the KiB: 1.3 and not 1.2999999998.
func (o object) gb(key string, b tier.Bytes) object {
	return o.number(key, math.Round(b.GB()*1e6)/1e6)
}

func (o object) seconds(key string, d time.Duration) object { return o.number(key, d.Seconds()) }

func (o object) tier(key string, t tier.Tier) object { return o.text(key, t.String()) }

// labels adds a model's labels, if it has some: its owner's, and of a model file what the
// file says.
func (o object) labels(labels map[string]string) object {
	if len(labels) == 0 {
		return o
	}
	all := object("{")
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if key == tier.ProjectorLabel { // where a file is concerns no client
			continue
		}
		all = all.text(key, labels[key])
	}
	return o.object("labels", all.end())
}

// lifecycle adds which version a model is, and of which model an older one, its engine,
// that it is pinned or in quarantine, and its aliases, as far as it has or is that.
func (o object) lifecycle(v *tier.View, i int) object {
	m := v.Library.At(i)
	if m.Version != "" {
		o = o.text("version", m.Version)
	}
	if m.VersionOf != "" {
		o = o.text("version_of", m.VersionOf)
	}
	if m.Mover != "" {
		o = o.text("engine", m.Mover)
	}
	if m.Pinned {
		o = o.flag("pinned", true)
	}
	if q := v.States[i].Quarantine; q != nil { // without the folder, which concerns no client
		o = o.object("quarantine", object(nil).text("file", filepath.Base(q.Path)).text("want", q.Want).text("got", q.Got).end())
	}
	if aliases := v.Library.AliasesOf(i); len(aliases) > 0 {
		o = o.list("aliases", aliases)
	}
	return o
}

// list adds a list of strings, which is never null.
func (o object) list(key string, list []string) object {
	o = append(o.key(key), '[')
	for i, s := range list {
		if i > 0 {
			o = append(o, ',')
		}
		o = o.quote(s)
	}
	return append(o, ']')
}

// object adds an object that was ended.
func (o object) object(key string, value object) object { return append(o.key(key), value...) }

// value adds what no other method does.
func (o object) value(key string, v any) object { return o.key(key).marshal(v) }

func (o object) end() object { return append(o, '}') }

func (o object) quote(s string) object {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return o.marshal(s)
		}
	}
	return append(append(append(o, '"'), s...), '"')
}

func (o object) marshal(v any) object {
	out, err := Encode(v)
	if err != nil {
		out = []byte("null") // impossible: only strings and finite numbers come here
	}
	return append(o, out...)
}
