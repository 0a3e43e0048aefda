package openai

import (
	"net/http"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/modeltier/modeltier"
	"github.com/modeltier/modeltier/integrations/gateway/room"
	"github.com/modeltier/modeltier/tier"
)

// models answers the list of models.
type models struct {
	m *modeltier.Manager
	// since is when the Manager was made, in Unix time: when models count as created.
	since int64
}

// entry is a model in the list: as OpenAI's clients read it, with what the list of the
// Manager's own Handler says.
type entry struct {
	ID           string            `json:"id"`
	Object       string            `json:"object"`
	Created      int64             `json:"created"`
	OwnedBy      string            `json:"owned_by"`
	Context      int               `json:"context_length,omitempty"` // tokens, as its header says
	SizeGB       float64           `json:"size_gb"`
	Capabilities []string          `json:"capabilities"`
	Home         tier.Tier         `json:"tier"`
	Resident     tier.Tier         `json:"resident_tier"`
	Labels       map[string]string `json:"labels,omitempty"`
	Aliases      []string          `json:"aliases,omitempty"`
	Pinned       bool              `json:"pinned,omitempty"`
	Version      string            `json:"version,omitempty"`
	VersionOf    string            `json:"version_of,omitempty"`
	Engine       string            `json:"engine,omitempty"`
	Quarantine   *damage           `json:"quarantine,omitempty"`
	Loading      *room.Loading     `json:"loading,omitempty"`
}

// damage is a file for which a model is not loaded, without its folder, which concerns no
// client.
type damage struct {
	File string `json:"file"`
	Want string `json:"want"`
	Got  string `json:"got"`
}

func (m *models) entry(s *modeltier.ModelStatus) entry {
	e := entry{
		ID: s.Name, Object: "model", Created: m.since, OwnedBy: "modeltier", SizeGB: s.Size.GB(),
		Capabilities: append([]string{}, s.Capabilities...), Home: s.Home, Resident: s.Tier, Labels: s.Labels,
		Aliases: s.Aliases, Pinned: s.Pinned, Version: s.Version, VersionOf: s.VersionOf, Engine: s.Mover,
	}
	if q := s.Quarantine; q != nil {
		e.Quarantine = &damage{filepath.Base(q.Path), q.Want, q.Got}
	}
	e.Context, _ = strconv.Atoi(s.Labels["context_length"])
	if s.Waiting != nil {
		at := room.LoadingAt(*s.Waiting)
		e.Loading = &at
	}
	return e
}

// list answers all of them.
func (m *models) list(w http.ResponseWriter, _ *http.Request) {
	data := []entry{}
	for s := range m.m.Models() {
		data = append(data, m.entry(&s))
	}
	room.WriteJSON(w, http.StatusOK, map[string]any{"object": "list", "data": data})
}

// one answers one of them, and, while it is loaded or waited for, how far that is.
func (m *models) one(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if s, ok := m.m.Model(name); ok {
		room.WriteJSON(w, http.StatusOK, m.entry(&s))
		return
	}
	if of, ok := strings.CutSuffix(name, "/digest"); ok {
		m.digest(w, r, of)
		return
	}
	_, err := m.m.Select(modeltier.Request{Model: name})
	if err == nil { // it came in this very moment
		err = &tier.NotFoundError{What: "model", Name: name}
	}
	room.WriteProblem(w, Face{}, room.ProblemOf(err))
}
