package modeltier

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"runtime/debug"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/tier"
)

// HandleRequest answers one request of the JSON contract: one object in, one
// object out. A request for a model makes it ready before it answers; ctx bounds
// the wait. Whatever comes in, the answer is valid JSON, with status "error", a
// code and suggestions where something is wrong.
func (m *Manager) HandleRequest(ctx context.Context, request []byte) []byte {
	out, err := encode(m.answer(ctx, request))
	if err != nil { // a number of a plugged-in part that JSON does not have
		out, _ = encode(errorAnswer(err))
	}
	return out
}

func (m *Manager) answer(ctx context.Context, request []byte) (out any) {
	defer func() {
		if v := recover(); v != nil {
			m.log.Error("a request panicked", "value", v, "stack", string(debug.Stack()))
			out = errorAnswer(&tier.PanicError{Part: "request", Value: v})
		}
	}()
	if int64(len(request)) > m.cfg.MaxBody {
		return errorAnswer(tooLong(m.cfg.MaxBody))
	}
	op, err := parseRequest(request)
	if err != nil {
		m.refused(&Request{}, "", err)
		return errorAnswer(err)
	}
	switch {
	case op.selection != nil:
		return m.answerSelection(ctx, op.selection)
	case op.hotLoad != nil:
		return m.answerHotLoad(ctx, op.hotLoad)
	case op.moveTier != nil:
		return m.answerMove(ctx, op.moveTier)
	case op.limits != nil:
		return m.answerLimits(ctx, op.limits)
	case op.hint != nil:
		return m.answerHint(op.hint)
	}
	switch op.query {
	case "tier_status":
		return m.answerTiers()
	case "auto_optimize":
		return m.answerOptimize(ctx)
	case "list_models":
		return m.answerModels()
	case "load_status":
		return m.answerLoadJob(op.job)
	}
	return m.answerMoveJob(op.job)
}

func tooLong(most int64) error {
	return &tier.InvalidError{
		Reason: fmt.Sprintf("Request is larger than %d bytes", most),
		Help:   []string{"Send a smaller request."},
	}
}

// wireError is the answer to what went wrong.
type wireError struct {
	Status      string   `json:"status"`
	Reason      string   `json:"reason"`
	Code        string   `json:"code"`
	Suggestions []string `json:"suggestions"`
	// RetryAfter is in seconds.
	RetryAfter float64 `json:"retry_after,omitempty"`
}

func errorAnswer(err error) *wireError {
	w := &wireError{Status: "error", Reason: err.Error(), Code: tier.Code(err), Suggestions: tier.Suggestions(err)}
	if w.Suggestions == nil {
		w.Suggestions = []string{}
	}
	if b, ok := errors.AsType[*tier.BusyError](err); ok {
		w.RetryAfter = b.RetryAfter.Seconds()
	}
	return w
}

// gb is bytes as the wire has them, to the KiB: 1.3 and not 1.2999999998.
func gb(b tier.Bytes) float64 { return math.Round(b.GB()*1e6) / 1e6 }

// names is never null on the wire.
func names(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

type hintAnswer struct {
	Status string `json:"status"`
	Model  string `json:"model_name"`
}

func (m *Manager) answerHint(h *hintRequest) any {
	if err := m.Hint(h.model, h.probability, h.within); err != nil {
		return errorAnswer(err)
	}
	return &hintAnswer{"hint_taken", h.model}
}

type limitsGB struct {
	RAM      float64 `json:"ram_max_gb"`
	Swap     float64 `json:"swap_max_gb"`
	Reserved float64 `json:"ram_reserved_gb"`
}

func wireLimits(l tier.Limits) limitsGB {
	return limitsGB{gb(l.Of(tier.RAM)), gb(l.Of(tier.Swap)), gb(max(l.Reserved, 0))}
}

func (m *Manager) answerLimits(ctx context.Context, l *tier.Limits) any {
	old, now, err := m.UpdateLimits(ctx, *l)
	if err != nil {
		return errorAnswer(err)
	}
	return &struct {
		Status string   `json:"status"`
		Old    limitsGB `json:"old_limits"`
		New    limitsGB `json:"new_limits"`
	}{"success", wireLimits(old), wireLimits(now)}
}

type tierAnswer struct {
	UsedGB      float64 `json:"used_gb"`
	AvailableGB float64 `json:"available_gb"`
	LimitGB     float64 `json:"limit_gb"`
	Utilization float64 `json:"utilization"`
	Models      int     `json:"models"`
}

func (m *Manager) answerTiers() any {
	snap := m.snap.Load()
	v, s := &snap.view, m.statusOfView(snap)
	of := func(t TierStatus, available tier.Bytes) tierAnswer {
		return tierAnswer{
			UsedGB: gb(t.Used), AvailableGB: available.GB(), LimitGB: gb(t.Limit),
			Utilization: t.Percent / 100, Models: t.Models,
		}
	}
	return &struct {
		Status string                `json:"status"`
		Tiers  map[string]tierAnswer `json:"tiers"`
	}{"success", map[string]tierAnswer{"ram": of(s.RAM, v.Memory.Available), "swap": of(s.Swap, v.FreeSwap)}}
}

func (m *Manager) answerOptimize(ctx context.Context) any {
	o, err := m.Optimize(ctx)
	if err != nil {
		return errorAnswer(err)
	}
	words := make([]string, len(o.Steps))
	for i, s := range o.Steps {
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
	return &struct {
		Status        string   `json:"status"`
		Optimizations []string `json:"optimizations"`
	}{"success", words}
}

type modelAnswer struct {
	SizeGB       float64   `json:"size_gb"`
	Tier         tier.Tier `json:"tier"`
	Capabilities []string  `json:"capabilities"`
	Resident     tier.Tier `json:"resident_tier"`
}

// modelMap marshals as an object that keeps the library's order.
type modelMap []ModelStatus

func (mm modelMap) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i := range mm {
		key, err := json.Marshal(mm[i].Name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(modelAnswer{gb(mm[i].Size), mm[i].Home, names(mm[i].Capabilities), mm[i].Tier})
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(key)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func (m *Manager) answerModels() any {
	var models modelMap
	for s := range m.Models() {
		models = append(models, s)
	}
	return &struct {
		Status string   `json:"status"`
		Models modelMap `json:"models"`
		Total  int      `json:"total_models"`
		Active int64    `json:"active_hot_loads"`
	}{"success", models, len(models), m.jobs.Counts(hotload.KindLoad).Running}
}
