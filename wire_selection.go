package modeltier

import (
	"context"
	"math"
	"time"

	"github.com/modeltier/modeltier/tier"
)

// selectionTarget is what a selection may take before the contract's
// performance_target_met is false.
const selectionTarget = 10 * time.Millisecond

// mostNames bounds available_models in an error.
const mostNames = 1000

type selectionAnswer struct {
	Status        string    `json:"status"`
	Model         string    `json:"model"`
	SizeGB        float64   `json:"size_gb"`
	Tier          tier.Tier `json:"tier"`
	Capabilities  []string  `json:"capabilities"`
	Reason        string    `json:"selection_reason"`
	SelectionTime float64   `json:"selection_time_ms"`
	SwapExecuted  bool      `json:"swap_executed"`
	SwapTime      float64   `json:"swap_time"`
	TargetMet     bool      `json:"performance_target_met"`
	KeptGB        *float64  `json:"kept_gb,omitempty"` // present of a model served from swap

	Explanation *wireExplanation `json:"explanation,omitempty"` // where it was asked for
}

type selectionError struct {
	Status        string   `json:"status"`
	Reason        string   `json:"reason"`
	SelectionTime float64  `json:"selection_time_ms"`
	Available     []string `json:"available_models"`
	Code          string   `json:"code"`
	Suggestions   []string `json:"suggestions"`
	RetryAfter    float64  `json:"retry_after,omitempty"`

	Explanation *wireExplanation `json:"explanation,omitempty"`
}

// wireExplanation is why a selection came out as it did.
type wireExplanation struct {
	Policy     string          `json:"policy"`
	Priority   tier.Priority   `json:"priority"`
	Candidates []wireCandidate `json:"candidates"`
	Omitted    int             `json:"omitted,omitempty"`
}

type wireCandidate struct {
	Model    string             `json:"model"`
	Eligible bool               `json:"eligible"`
	Verdict  string             `json:"verdict"`
	Score    float64            `json:"score"`
	Factors  map[string]float64 `json:"factors,omitempty"`
	Expected float64            `json:"expected_s,omitempty"` // until it can be used
}

func explanation(x *tier.Explanation) *wireExplanation {
	if x == nil {
		return nil
	}
	finite := func(f float64) float64 { // JSON has no others
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return 0
		}
		return f
	}
	w := &wireExplanation{Policy: x.Policy, Priority: x.Priority, Omitted: x.Omitted, Candidates: make([]wireCandidate, len(x.Candidates))}
	for i, c := range x.Candidates {
		factors := make(map[string]float64, len(c.Factors))
		for _, f := range c.Factors {
			factors[f.Name] = finite(f.Value)
		}
		w.Candidates[i] = wireCandidate{c.Model, c.Eligible, c.Verdict, finite(c.Score), factors, c.Expected.Seconds()}
	}
	return w
}

func (m *Manager) answerSelection(ctx context.Context, req *Request) any {
	began := time.Now()
	var waited time.Duration
	lease, choice, err := m.acquire(ctx, req, &waited)
	selection := max(time.Since(began)-waited, 0)
	if err != nil {
		w := errorAnswer(err)
		return &selectionError{
			Status: w.Status, Reason: w.Reason, SelectionTime: ms(selection), Code: w.Code,
			Suggestions: w.Suggestions, RetryAfter: w.RetryAfter,
			Available:   m.snap.Load().view.Library.Names(mostNames),
			Explanation: explanation(choice.Explanation),
		}
	}
	defer lease.Release()
	a := &selectionAnswer{
		Status: "success", Model: lease.stay.model.Name, SizeGB: gb(lease.stay.model.Size), Tier: lease.stay.tier,
		Capabilities: names(lease.stay.model.Capabilities), Reason: choice.Reason(), SelectionTime: ms(selection),
		SwapExecuted: lease.moved, TargetMet: selection <= selectionTarget, Explanation: explanation(choice.Explanation),
	}
	if lease.moved {
		a.SwapTime = lease.waited.Seconds()
	}
	if lease.stay.tier == tier.Swap {
		kept := gb(lease.stay.kept)
		a.KeptGB = &kept
	}
	return a
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
