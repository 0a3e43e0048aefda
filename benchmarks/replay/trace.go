package main

import (
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// trace is requests over a library.
type trace struct {
	name   string
	models []tier.Model
	edge   []tier.Model // sizes for the smallest capacities; nil: models
	at     []float64    // seconds from the start, rising
	who    []int32      // index into models
}

// library returns the models for a machine of that much ram.
func (t *trace) library(ramGB float64) []tier.Model {
	if t.edge != nil && ramGB <= 5 {
		return t.edge
	}
	return t.models
}

// readTraces reads every trace of a folder, by name.
func readTraces(dir string) ([]*trace, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.csv.gz"))
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("%s holds no X.csv.gz", dir)
	}
	slices.Sort(paths)
	var out []*trace
	for _, path := range paths {
		t, err := readTrace(strings.TrimSuffix(path, ".csv.gz"))
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

func readTrace(base string) (*trace, error) {
	t := &trace{name: filepath.Base(base)}
	index := make(map[string]int)
	var err error
	if t.models, err = readModels(base+".models.csv", index); err != nil {
		return nil, err
	}
	t.edge, err = readModels(base+".models.edge.csv", index)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	rows, err := readCSV(base + ".csv.gz")
	if err != nil {
		return nil, err
	}
	for i, row := range rows {
		at, err := strconv.ParseFloat(row[0], 64)
		who, known := index[row[1]]
		switch {
		case err != nil || math.IsNaN(at) || math.IsInf(at, 0):
			return nil, fmt.Errorf("%s, line %d: %q is no time", base, i+2, row[0])
		case !known:
			return nil, fmt.Errorf("%s, line %d: model %q is not in %s.models.csv", base, i+2, row[1], t.name)
		case i > 0 && at < t.at[i-1]:
			return nil, fmt.Errorf("%s, line %d: time goes back", base, i+2)
		}
		t.at, t.who = append(t.at, at), append(t.who, int32(who))
	}
	if len(t.at) == 0 {
		return nil, fmt.Errorf("%s has no requests", base)
	}
	return t, nil
}

// readModels fills index if it is empty, and follows it if not.
func readModels(path string, index map[string]int) ([]tier.Model, error) {
	rows, err := readCSV(path)
	if err != nil {
		return nil, err
	}
	first := len(index) == 0
	models := make([]tier.Model, len(rows))
	for i, row := range rows {
		gb, err := strconv.ParseFloat(row[1], 64)
		if err != nil || !(gb > 0 && gb < 1e6) {
			return nil, fmt.Errorf("%s, line %d: %q is no size in GB", path, i+2, row[1])
		}
		if first {
			index[row[0]] = i
		}
		at, ok := index[row[0]]
		if !ok || at >= len(models) {
			return nil, fmt.Errorf("%s, line %d: model %q is not in the other list", path, i+2, row[0])
		}
		models[at] = tier.Model{Name: row[0], Size: tier.Bytes(math.Round(gb * 1e9))}
	}
	return models, nil
}

// readCSV returns the rows behind the header, each with two columns at least.
func readCSV(path string) ([][]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	in := io.Reader(f)
	if strings.HasSuffix(path, ".gz") {
		z, err := gzip.NewReader(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		in = z
	}
	rows, err := csv.NewReader(in).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(rows) < 2 || len(rows[0]) < 2 {
		return nil, fmt.Errorf("%s has no rows of two columns", path)
	}
	return rows[1:], nil
}

// ownTraces makes workloads if there are no recorded ones. Skew, burstiness
// and repetition lie in the ranges of recorded traces: the top model has 9 to 47 %
// of the requests, the same model comes again with probability 0.1 to 0.55.
func ownTraces(seed uint64) []*trace {
	return []*trace{
		ownTrace("own-skewed", seed, 40, 12_000, 1.1, 0.3, 0),
		ownTrace("own-bursty", seed+1, 25, 12_000, 0.8, 0.55, 0),
		ownTrace("own-drifting", seed+2, 40, 12_000, 1.0, 0.2, 8),
	}
}

// ownTrace draws requests from a Zipf law of that exponent over models in random
// order, which is drawn drifts times again.
func ownTrace(name string, seed uint64, models, requests int, exponent, again float64, drifts int) *trace {
	r := rand.New(rand.NewPCG(seed, 0x6d6f64656c746965))
	t := &trace{name: name}
	var total float64
	weights := make([]float64, models)
	for i := range weights {
		weights[i] = math.Pow(float64(i+1), -exponent)
		total += weights[i]
		gb := 0.3 + 4.1*r.Float64()*r.Float64()
		t.models = append(t.models, tier.Model{Name: fmt.Sprintf("m%03d", i), Size: tier.Bytes(gb * 1e9)})
	}
	order := r.Perm(models)
	now, last := 0.0, -1
	for i := range requests {
		if drifts > 0 && i > 0 && i%(requests/drifts) == 0 {
			order = r.Perm(models)
		}
		if last < 0 || r.Float64() >= again {
			x := r.Float64() * total
			for last = 0; last < models-1 && x > weights[last]; last++ {
				x -= weights[last]
			}
		}
		now += 20 * r.ExpFloat64() * math.Exp(1.2*r.NormFloat64()-0.72) // bursts: a log-normal mean
		t.at, t.who = append(t.at, now), append(t.who, int32(order[last]))
	}
	return t
}
