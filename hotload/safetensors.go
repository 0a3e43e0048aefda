package hotload

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// The format's own bound on a header (MAX_HEADER_SIZE in the reference
// implementation), and how much of it may be one entry: the metadata that some
// trainers write is a single one of some MiB.
const (
	safetensorsMaxHeader = 100_000_000
	safetensorsMaxEntry  = 8 << 20
)

// safetensorsBits are bits per element by dtype. Source: the Dtype enum of the
// reference implementation, huggingface/safetensors.
var safetensorsBits = map[string]uint64{
	"BOOL": 8, "U8": 8, "I8": 8,
	"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
	"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
	"U16": 16, "I16": 16, "F16": 16, "BF16": 16,
	"U32": 32, "I32": 32, "F32": 32,
	"U64": 64, "I64": 64, "F64": 64, "C64": 64,
}

// ReadSafetensors reads the header of a safetensors file of size bytes. It checks
// what the reference implementation checks: tensors fit their dtype and shape, lie
// end to end without holes, and end where the file ends; the weights are not read.
// Memory is 16 bytes per tensor of the header, and as much as its largest entry
// needs. An error is a *FileError, with Missing set where the file is truncated.
//
// Name, Size and Files of the Info are left to Inspect, and so is all that stands
// in files beside this one.
func ReadSafetensors(r io.ReaderAt, size int64) (Info, error) {
	info := Info{Format: FormatSafetensors}
	w := window{r: r, size: size, limit: safetensorsMaxHeader}
	length, err := w.uint64()
	if err != nil {
		return Info{}, err
	}
	if length > safetensorsMaxHeader {
		return Info{}, &FileError{Reason: fmt.Sprintf("claims a header of %d bytes; %d are allowed", length, safetensorsMaxHeader)}
	}
	if missing := 8 + int64(length) - size; missing > 0 {
		return Info{}, w.truncated(missing)
	}
	tensors, err := readSafetensorsHeader(&info, io.NewSectionReader(r, 8, int64(length)))
	if err != nil {
		return Info{}, err
	}
	data := uint64(size) - 8 - length
	if err := checkSpans(tensors, data); err != nil {
		return Info{}, err
	}
	info.TensorBytes = tier.Bytes(data) // the tensors fill it
	return info, nil
}

// span is where a tensor lies, from where the data begins.
type span struct{ begin, end uint64 }

// safetensorsEntry is one tensor of a header.
type safetensorsEntry struct {
	Dtype   string   `json:"dtype"`
	Shape   []uint64 `json:"shape"`
	Offsets []uint64 `json:"data_offsets"`
}

func readSafetensorsHeader(info *Info, r io.Reader) ([]span, error) {
	a := &allowance{r: r}
	dec := json.NewDecoder(a)
	broken := func(err error) error {
		if errors.Is(err, errAllowance) || err == io.EOF || err == io.ErrUnexpectedEOF {
			return &FileError{Reason: "has a broken header", Err: err}
		}
		if _, syntax := errors.AsType[*json.SyntaxError](err); syntax {
			return &FileError{Reason: "has a header that is not JSON", Err: err}
		}
		if _, shape := errors.AsType[*json.UnmarshalTypeError](err); shape {
			return &FileError{Reason: "has a header of the wrong shape", Err: err}
		}
		return &FileError{Reason: "cannot be read", Err: err}
	}
	token := func() (json.Token, error) {
		a.left = safetensorsMaxEntry
		t, err := dec.Token()
		if err != nil {
			return nil, broken(err)
		}
		return t, nil
	}

	if t, err := token(); err != nil {
		return nil, err
	} else if t != json.Delim('{') {
		return nil, &FileError{Reason: "has a header that is not a JSON object"}
	}
	var (
		spans      []span
		parameters uint64
		perDtype   = make(map[string]uint64) // bytes; only of known types, so bounded
	)
	for {
		t, err := token()
		if err != nil {
			return nil, err
		}
		name, ok := t.(string)
		if !ok { // the closing brace
			break
		}
		a.left = safetensorsMaxEntry
		if name == "__metadata__" {
			var metadata map[string]string
			if err := dec.Decode(&metadata); err != nil {
				return nil, broken(err)
			}
			info.Title = printable(metadata["modelspec.title"])
			continue
		}
		var e safetensorsEntry
		if err := dec.Decode(&e); err != nil {
			return nil, broken(err)
		}
		if strings.Contains(name, "lora_") { // how adapters name what they add
			info.Role = RoleAdapter
		}
		elements, err := e.check(name)
		if err != nil {
			return nil, err
		}
		var carry uint64
		if parameters, carry = bits.Add64(parameters, elements, 0); carry > 0 || parameters > math.MaxInt64 {
			return nil, &FileError{Reason: "has tensors of more elements than can be counted"}
		}
		s := span{e.Offsets[0], e.Offsets[1]}
		spans = append(spans, s)
		if safetensorsBits[e.Dtype] != 0 {
			perDtype[e.Dtype] += s.end - s.begin
		}
	}
	// Padding with spaces is what writers do to align the data.
	if _, err := token(); err == nil || !errors.Is(err, io.EOF) {
		return nil, &FileError{Reason: "has something behind the JSON of its header"}
	}
	info.Tensors = int64(len(spans))
	info.Parameters = int64(parameters)
	var most uint64
	for dtype, bytes := range perDtype {
		if bytes > most || bytes == most && dtype < info.Quantisation {
			most, info.Quantisation = bytes, dtype
		}
	}
	return spans, nil
}

// check returns the number of elements of the tensor, whose offsets are in order
// and fit its dtype and shape when it returns no error.
func (e *safetensorsEntry) check(name string) (elements uint64, err error) {
	fault := func(format string, args ...any) error {
		return &FileError{Reason: fmt.Sprintf("has a tensor %.100q ", name) + fmt.Sprintf(format, args...)}
	}
	if len(e.Offsets) != 2 || e.Offsets[0] > e.Offsets[1] || e.Offsets[1] > math.MaxInt64 {
		return 0, fault("without a begin and an end")
	}
	if e.Dtype == "" || e.Shape == nil {
		return 0, fault("without dtype and shape")
	}
	elements = 1
	for _, d := range e.Shape {
		over, product := bits.Mul64(elements, d)
		if over > 0 || product > math.MaxInt64 {
			return 0, fault("of more elements than can be counted")
		}
		elements = product
	}
	width := safetensorsBits[e.Dtype]
	if width == 0 { // newer than this table: it has a place and no known size
		return elements, nil
	}
	over, bitsTotal := bits.Mul64(elements, width)
	if over > 0 || bitsTotal%8 != 0 || bitsTotal/8 != e.Offsets[1]-e.Offsets[0] {
		return 0, fault("of %d elements of %s in %d bytes", elements, e.Dtype, e.Offsets[1]-e.Offsets[0])
	}
	return elements, nil
}

// checkSpans checks that the tensors fill the data, end to end.
func checkSpans(spans []span, data uint64) error {
	slices.SortFunc(spans, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end))
	})
	var at uint64
	for _, s := range spans {
		if s.begin != at {
			return &FileError{Reason: fmt.Sprintf("has tensors that overlap or leave a hole at byte %d of the data", min(at, s.begin))}
		}
		at = s.end
	}
	switch {
	case at > data:
		missing := tier.Bytes(at - data)
		return &FileError{Missing: missing, Reason: fmt.Sprintf("is truncated: %d bytes (%v) are missing of %d of data", int64(missing), missing, at)}
	case at < data:
		return &FileError{Reason: fmt.Sprintf("has %d bytes behind its last tensor", data-at)}
	}
	return nil
}

// allowance is a reader that gives out no more than is left, so that no single
// item makes a decoder's buffer grow beyond it.
type allowance struct {
	r    io.Reader
	left int
}

var errAllowance = fmt.Errorf("one entry is longer than %d bytes", safetensorsMaxEntry)

func (a *allowance) Read(p []byte) (int, error) {
	if a.left <= 0 {
		return 0, errAllowance
	}
	n, err := a.r.Read(p[:min(len(p), a.left)])
	a.left -= n
	return n, err
}
