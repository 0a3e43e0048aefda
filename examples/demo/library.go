package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/modeltier/modeltier/hotload"
	"github.com/modeltier/modeltier/tier"
)

// Bounds of a Library's Scale. Above the upper one the smallest file would hold
// little beyond its header.
const (
	MinScale = 1
	MaxScale = 4096
)

// Library is the demo library in one folder.
type Library struct {
	// Dir is the folder, made where it is missing.
	Dir string
	// Scale is by how much everything is smaller than on the board: 16 makes a file
	// of 192 MiB for a model of 3 GB.
	Scale int
}

// entry is one model as it is on the board.
type entry struct {
	name         string
	gb           float64
	home         tier.Tier
	capabilities []string
}

// models are those of the recordings of the wire contract.
var models = []entry{
	{"gpt2-small", 0.5, tier.RAM, []string{"text-generation", "fast"}},
	{"gpt2-medium", 1.5, tier.RAM, []string{"text-generation", "balanced"}},
	{"gpt2-large", 3.0, tier.RAM, []string{"text-generation", "quality"}},
	{"bert-large", 1.3, tier.RAM, []string{"text-classification", "embeddings"}},
	{"gpt-j-6b", 6.0, tier.Swap, []string{"text-generation", "high-quality"}},
	{"llama-7b", 7.0, tier.Swap, []string{"text-generation", "instruction-following"}},
}

// spare is a file that no model of the library has: one to add while the server
// runs.
var spare = entry{"custom-model", 0.5, tier.RAM, []string{"custom-task"}}

// Validate returns an error that says what is wrong with the Scale.
func (l Library) Validate() error {
	if l.Scale < MinScale || l.Scale > MaxScale {
		return fmt.Errorf("scale %d: must be %d to %d", l.Scale, MinScale, MaxScale)
	}
	return nil
}

// Models returns the six models, whose files Make makes. They are judged by their
// size on the board, so that the scores of a selection are the board's as well.
func (l Library) Models() []tier.Model {
	out := make([]tier.Model, len(models))
	for i, e := range models {
		out[i] = tier.Model{
			Name: e.name, Path: l.path(e), Size: l.size(e), Home: e.home,
			Capabilities: e.capabilities, Quality: e.gb,
		}
	}
	return out
}

// Limits returns the board's limits, scaled.
func (l Library) Limits() tier.Limits {
	d, scale := tier.DefaultLimits(), tier.Bytes(l.Scale)
	return tier.Limits{RAM: d.RAM / scale, Swap: d.Swap / scale, Reserved: d.Reserved / scale, MaxModel: d.MaxModel / scale}
}

// Spare returns a model that is not one of Models, though Make makes its file:
// one to add while the server runs. Its path is relative to Dir.
func (l Library) Spare() tier.Model {
	return tier.Model{Name: spare.name, Path: filepath.Join("spare", spare.file()), Size: l.size(spare), Home: spare.home, Capabilities: spare.capabilities}
}

// Total returns the bytes of all files.
func (l Library) Total() tier.Bytes {
	sum := l.size(spare)
	for _, e := range models {
		sum += l.size(e)
	}
	return sum
}

func (e entry) file() string { return e.name + ".gguf" }

// path keeps the spare file in a folder of its own, so that who looks into Dir
// sees the six.
func (l Library) path(e entry) string {
	if e.name == spare.name {
		return filepath.Join(l.Dir, "spare", e.file())
	}
	return filepath.Join(l.Dir, e.file())
}

// shape is the largest model that is no larger than on the board, scaled.
func (l Library) shape(e entry) Llama {
	return fitted(e.name, tier.Bytes(e.gb*float64(tier.GiB)/float64(l.Scale)))
}

func (l Library) size(e entry) tier.Bytes {
	shape := l.shape(e)
	return shape.Size()
}

// Progress is how far Make has come. Total counts only what has to be written.
type Progress struct {
	File        string
	Done, Total tier.Bytes
}

// Make writes the files that are missing, cut short, or otherwise not what they
// should be, and calls progress from time to time, if it is not nil. A file has
// its name only once it is whole and on disk, so whatever ends Make leaves
// nothing half done behind that a later call would take for good. The bytes are
// the same every time.
func (l Library) Make(ctx context.Context, progress func(Progress)) error {
	if err := l.Validate(); err != nil {
		return err
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	var missing []entry
	p := Progress{}
	for _, e := range append(models[:len(models):len(models)], spare) {
		clearStale(l.path(e))
		if !l.whole(e) {
			missing = append(missing, e)
			p.Total += l.size(e)
		}
	}
	for _, e := range missing {
		p.File = e.file()
		err := l.write(ctx, e, func(n int) {
			p.Done += tier.Bytes(n)
			progress(p)
		})
		if err != nil {
			return fmt.Errorf("making the demo library, %v in %s: %w", l.Total(), l.Dir, err)
		}
	}
	return nil
}

// whole reports whether the file is there in full.
func (l Library) whole(e entry) bool {
	info, err := hotload.Inspect(l.path(e))
	shape := l.shape(e)
	return err == nil && info.Format == hotload.FormatGGUF && info.Size == shape.Size() && info.Title == shape.title()
}

// write makes one file under another name and renames it when it is on disk. The
// data is flushed for a second reason too: pages that are not written yet cannot
// be dropped from memory, and dropping them is what a demote does.
func (l Library) write(ctx context.Context, e entry, wrote func(n int)) (err error) {
	path := l.path(e)
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// A name of its own: two servers may be making the same library.
	f, err := os.CreateTemp(dir, e.file()+".*.part")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	shape := l.shape(e)
	if err := shape.Write(ctx, f, wrote); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// clearStale removes what a Make that was killed has left of the file.
func clearStale(path string) {
	const abandoned = 10 * time.Minute
	parts, err := filepath.Glob(path + ".*.part")
	if err != nil {
		return // a folder whose name is a pattern: what is left there stays
	}
	for _, part := range parts {
		if info, err := os.Stat(part); err == nil && time.Since(info.ModTime()) > abandoned {
			os.Remove(part)
		}
	}
}
