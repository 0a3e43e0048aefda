package hotload

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
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
	// Homes are home tiers of models that are not in Models because they are
	// configured anew at each start.
	Homes map[string]tier.Tier
	// Removed are names of configured models that are not to come back.
	Removed []string
	// Blobs belong to whoever put them there, by name.
	Blobs map[string][]byte
}

// maxStateBytes bounds what is read back, and so what is written: a quarter of a
// million models of a KiB each.
const maxStateBytes = 256 << 20

// A state file is one line that says what it is, and a JSON object. The line
// holds the SHA-256 of the object, so that a torn, damaged or foreign file is
// told from a good one.
const (
	stateMagic   = "modeltier-state"
	stateVersion = 1
	headerLength = len(stateMagic+" 1 ") + 2*sha256.Size + 1
)

// stateRecord and modelRecord are the file's form of a State. They stand apart
// from the types of the program so that the one can change without the other.
type stateRecord struct {
	Generation uint64               `json:"generation"` // counts attempts to save
	Saved      time.Time            `json:"saved"`
	Limits     limitsRecord         `json:"limits"`
	Models     []modelRecord        `json:"models"`
	Homes      map[string]tier.Tier `json:"homes,omitempty"`
	Removed    []string             `json:"removed,omitempty"`
	Blobs      map[string][]byte    `json:"blobs,omitempty"`
}

type limitsRecord struct {
	RAM      tier.Bytes `json:"ram"`
	Swap     tier.Bytes `json:"swap"`
	Reserved tier.Bytes `json:"reserved"`
	MaxModel tier.Bytes `json:"max_model"`
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

// encodeState returns the content of a state file. It refuses a state that
// decodeState would refuse, so that what was acknowledged can be read.
func encodeState(st State, generation uint64, now time.Time) ([]byte, error) {
	rec := stateRecord{
		Generation: generation,
		Saved:      now.UTC(),
		Limits:     limitsRecord(st.Limits),
		Models:     make([]modelRecord, len(st.Models)),
		Homes:      st.Homes,
		Removed:    st.Removed,
		Blobs:      st.Blobs,
	}
	if err := checkState(st); err != nil {
		return nil, err
	}
	for i := range st.Models {
		m := &st.Models[i]
		rec.Models[i] = modelRecord(*m)
		rec.Models[i].Path = pack(m.Path)
		rec.Models[i].Labels = mapStrings(m.Labels, pack)
	}
	var buf bytes.Buffer
	buf.Write(make([]byte, headerLength))
	if err := json.NewEncoder(&buf).Encode(&rec); err != nil {
		return nil, err
	}
	if buf.Len() > maxStateBytes {
		return nil, &tier.InvalidError{Field: "state", Value: tier.Bytes(buf.Len()).String(), Rule: "must be " + tier.Bytes(maxStateBytes).String() + " at most"}
	}
	data := buf.Bytes()
	copy(data, stateHeader(data[headerLength:]))
	return data, nil
}

func stateHeader(body []byte) string {
	return fmt.Sprintf("%s %d %x\n", stateMagic, stateVersion, sha256.Sum256(body))
}

// decodeState is the inverse of encodeState. Its errors say in what way the file
// is not one of ours.
func decodeState(data []byte) (State, stateRecord, error) {
	var rec stateRecord
	header, body, found := bytes.Cut(data, []byte("\n"))
	magic, rest, _ := strings.Cut(string(header[:min(len(header), headerLength)]), " ")
	if !found || magic != stateMagic {
		return State{}, rec, errors.New("is not a state file of modeltier")
	}
	version, _, _ := strings.Cut(rest, " ")
	if v, err := strconv.Atoi(version); err == nil && v > stateVersion {
		return State{}, rec, fmt.Errorf("was written by a newer modeltier (version %d of the format, %d is known)", v, stateVersion)
	}
	if string(header)+"\n" != stateHeader(body) {
		return State{}, rec, errors.New("is torn or was changed: its checksum does not match")
	}
	if err := json.Unmarshal(body, &rec); err != nil {
		return State{}, rec, fmt.Errorf("has a good checksum and bad content: %w", err)
	}
	st := State{
		Models:  make([]tier.Model, len(rec.Models)),
		Limits:  tier.Limits(rec.Limits),
		Homes:   rec.Homes,
		Removed: rec.Removed,
		Blobs:   rec.Blobs,
	}
	for i := range rec.Models {
		st.Models[i] = tier.Model(rec.Models[i])
		st.Models[i].Path = unpack(rec.Models[i].Path)
		st.Models[i].Labels = mapStrings(rec.Models[i].Labels, unpack)
	}
	err := checkState(st)
	if rec.Generation == 0 {
		err = errors.Join(err, errors.New("no generation"))
	}
	if err != nil {
		return State{}, rec, fmt.Errorf("has a good checksum and bad content: %w", err)
	}
	return st, rec, nil
}

// checkState reports every fault of the state.
func checkState(st State) error {
	var faults []error
	names := make(map[string]struct{}, len(st.Models))
	for i := range st.Models {
		m := &st.Models[i]
		if err := m.Validate(); err != nil {
			faults = append(faults, err)
		}
		if _, dup := names[m.Name]; dup {
			faults = append(faults, &tier.ExistsError{Model: m.Name})
		}
		names[m.Name] = struct{}{}
	}
	for name, home := range st.Homes {
		if err := tier.CheckName("home of", name); err != nil {
			faults = append(faults, err)
		}
		if !home.Valid() {
			faults = append(faults, &tier.InvalidError{Model: name, Field: "home", Value: home.String(), Rule: "must be one of ram, swap, storage"})
		}
	}
	for _, name := range st.Removed {
		if err := tier.CheckName("removed", name); err != nil {
			faults = append(faults, err)
		}
	}
	for name := range st.Blobs {
		if err := tier.CheckName("blob", name); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// packed marks a string that JSON cannot carry as it is: a path or a label may
// hold any bytes.
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

// mapStrings applies f to every key and value. A map that f leaves as it is, as
// nearly all are, is not copied.
func mapStrings(m map[string]string, f func(string) string) map[string]string {
	same := true
	for k, v := range m {
		same = same && f(k) == k && f(v) == v
	}
	if same {
		return m
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[f(k)] = f(v)
	}
	return out
}
