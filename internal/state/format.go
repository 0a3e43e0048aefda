package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/modeltier/modeltier/tier"
)

// State is what a Store keeps.
type State struct {
	// Models are kept with every field.
	Models []tier.Model
	// Limits in force.
	Limits tier.Limits
	// Homes are home tiers of models that are not in Models because the
	// configuration declares them.
	Homes map[string]tier.Tier
	// Removed are names of configured models that must not come back.
	Removed []string
	// Blobs are data of other parts, by name.
	Blobs map[string][]byte
}

// maxFileBytes bounds what is read and written: a quarter of a million models of
// one KiB each.
const maxFileBytes = 256 << 20

// A state file is one header line and a JSON object. The header holds the SHA-256
// of the object, which tells a torn, damaged or foreign file from a good one.
const (
	magic        = "modeltier-state"
	version      = 1
	headerLength = len(magic+" 1 ") + 2*sha256.Size + 1
)

// record is the JSON form of a State. A model's is separate from tier.Model, so that
// either can change without the other.
type record struct {
	Generation uint64               `json:"generation"` // counts attempts to save, from 1
	Saved      time.Time            `json:"saved"`
	Limits     tier.Limits          `json:"limits"`
	Models     []modelRecord        `json:"models"`
	Homes      map[string]tier.Tier `json:"homes,omitempty"`
	Removed    []string             `json:"removed,omitempty"`
	Blobs      map[string][]byte    `json:"blobs,omitempty"`
}

type modelRecord struct {
	Name         string            `json:"name"`
	Path         string            `json:"path,omitempty"`
	Size         tier.Bytes        `json:"size"`
	Runtime      tier.Bytes        `json:"runtime,omitempty"`
	Home         tier.Tier         `json:"home"`
	Capabilities []string          `json:"capabilities,omitempty"`
	Quality      float64           `json:"quality,omitempty"`
	Pinned       bool              `json:"pinned,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
}

// encode returns the content of a state file. It refuses a State that decode would
// refuse, so that every acknowledged State can be read.
func encode(st State, generation uint64, now time.Time) ([]byte, error) {
	if err := check(st); err != nil {
		return nil, err
	}
	rec := record{
		Generation: generation, Saved: now.UTC(), Limits: st.Limits, Models: make([]modelRecord, len(st.Models)),
		Homes: st.Homes, Removed: st.Removed, Blobs: st.Blobs,
	}
	for i, m := range st.Models {
		m.Path, m.Labels = pack(m.Path), mapStrings(m.Labels, pack)
		rec.Models[i] = modelRecord(m)
	}
	buf := bytes.NewBuffer(make([]byte, headerLength))
	if err := json.NewEncoder(buf).Encode(&rec); err != nil {
		return nil, err
	}
	if buf.Len() > maxFileBytes {
		return nil, &tier.InvalidError{Field: "state", Value: tier.Bytes(buf.Len()).String(), Rule: "must be " + tier.Bytes(maxFileBytes).String() + " at most"}
	}
	data := buf.Bytes()
	copy(data, header(data[headerLength:]))
	return data, nil
}

func header(body []byte) string {
	return fmt.Sprintf("%s %d %x\n", magic, version, sha256.Sum256(body))
}

// decode is the inverse of encode. Its errors complete a sentence that begins with
// the name of the file.
func decode(data []byte) (State, record, error) {
	var rec record
	line, body, found := bytes.Cut(data, []byte("\n"))
	var v int
	n, _ := fmt.Sscanf(string(line[:min(len(line), headerLength)]), magic+" %d ", &v)
	switch {
	case !found || n == 0:
		return State{}, rec, errors.New("is not a state file of modeltier")
	case v > version:
		return State{}, rec, fmt.Errorf("was written by a newer modeltier (format version %d, this one reads %d)", v, version)
	case string(line)+"\n" != header(body):
		return State{}, rec, errors.New("is torn or was changed: its checksum does not match")
	}
	err := json.Unmarshal(body, &rec)
	st := State{Models: make([]tier.Model, len(rec.Models)), Limits: rec.Limits, Homes: rec.Homes, Removed: rec.Removed, Blobs: rec.Blobs}
	for i, m := range rec.Models {
		m.Path, m.Labels = unpack(m.Path), mapStrings(m.Labels, unpack)
		st.Models[i] = tier.Model(m)
	}
	if err == nil {
		err = check(st)
	}
	if err == nil && rec.Generation == 0 {
		err = errors.New("it has no generation")
	}
	if err != nil {
		return State{}, rec, fmt.Errorf("has a valid checksum and invalid content: %w", err)
	}
	return st, rec, nil
}

// check reports every fault of the state.
func check(st State) error {
	var faults []error
	models := make(map[string]bool, len(st.Models))
	for i := range st.Models {
		m := &st.Models[i]
		faults = append(faults, m.Validate())
		if models[m.Name] {
			faults = append(faults, &tier.ExistsError{Model: m.Name})
		}
		models[m.Name] = true
	}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(st.Homes)), slices.Collect(maps.Keys(st.Blobs)), st.Removed) {
		faults = append(faults, tier.CheckName("name", name))
	}
	return errors.Join(faults...)
}

// packed marks a string that JSON cannot represent: a path or a label may hold any
// bytes.
const packed = "\x00base64:"

func pack(s string) string {
	if utf8.ValidString(s) && !strings.HasPrefix(s, packed) {
		return s
	}
	return packed + base64.StdEncoding.EncodeToString([]byte(s))
}

func unpack(s string) string {
	if code, ok := strings.CutPrefix(s, packed); ok {
		if raw, err := base64.StdEncoding.DecodeString(code); err == nil {
			return string(raw)
		}
	}
	return s
}

// mapStrings applies f to every key and value.
func mapStrings(m map[string]string, f func(string) string) map[string]string {
	if m == nil {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[f(k)] = f(v)
	}
	return out
}
