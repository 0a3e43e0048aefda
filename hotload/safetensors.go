package hotload

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// The format's own bound on a header (MAX_HEADER_SIZE in the reference
// implementation), and a bound on one entry: the metadata that some trainers write
// has some MiB.
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
// what the format demands: no key repeats, tensors fit their dtype and shape, lie end
// to end without holes, and end where the file ends; it does not read the weights.
// Memory is some 32 bytes for each tensor of the header, and what its largest entry
// needs. An error is a *FileError, with Missing set if the file is truncated.
//
// Name, Size and Files of the Info are left to Inspect, and so is all that other
// files in the folder say.
func ReadSafetensors(r io.ReaderAt, size int64) (Info, error) {
	info, _, err := readSafetensorsHeader(r, size)
	return info, err
}

// readSafetensorsHeader is ReadSafetensors, and says how long the header is.
func readSafetensorsHeader(r io.ReaderAt, size int64) (_ Info, header int64, _ error) {
	b := bufReader{r: r, size: size, limit: safetensorsMaxHeader}
	defer b.close()
	length := b.uint64()
	if length > safetensorsMaxHeader {
		b.fault("claims a header of %d bytes; %d are allowed", length, safetensorsMaxHeader)
	} else if missing := 8 + int64(length) - size; missing > 0 {
		b.truncated(missing)
	}
	if b.err != nil {
		return Info{}, 0, b.err
	}
	entry := &io.LimitedReader{R: io.NewSectionReader(r, 8, int64(length)), N: safetensorsMaxEntry}
	h := safetensorsHeader{entry: entry, dec: json.NewDecoder(entry)}
	info, err := h.read()
	if err != nil {
		return Info{}, 0, h.fault(err)
	}
	data := uint64(size) - 8 - length
	if err := checkSpans(h.spans, data); err != nil {
		return Info{}, 0, err
	}
	return info, 8 + int64(length), nil
}

// safetensorsHeader reads the JSON of one header, entry by entry.
type safetensorsHeader struct {
	entry *io.LimitedReader // so that no entry makes the decoder's buffer grow beyond that
	dec   *json.Decoder
	spans []span // where the tensors lie
}

// span is where a tensor lies, counted from the start of the data.
type span struct{ begin, end uint64 }

// safetensorsEntry is one tensor of a header.
type safetensorsEntry struct {
	Dtype   string   `json:"dtype"`
	Shape   []uint64 `json:"shape"`
	Offsets []uint64 `json:"data_offsets"`
}

func (h *safetensorsHeader) read() (Info, error) {
	var (
		info    = Info{Format: FormatSafetensors}
		tensors tensorSum
		keys    = newUniqueNames() // of one entry
	)
	err := h.object("tensor", newUniqueNames(), func(name string) error {
		defer func() { h.entry.N = safetensorsMaxEntry }() // for the next one
		if name == "__metadata__" {
			return h.object("metadata key", newUniqueNames(), func(key string) error {
				var text string
				err := h.dec.Decode(&text)
				if key == "modelspec.title" {
					info.Title = printable(text)
				}
				return err
			})
		}
		var e safetensorsEntry
		clear(keys.seen)
		err := h.object("key", keys, func(key string) error {
			switch key {
			case "dtype":
				return h.dec.Decode(&e.Dtype)
			case "shape":
				return h.dec.Decode(&e.Shape)
			case "data_offsets":
				return h.dec.Decode(&e.Offsets)
			}
			return h.dec.Decode(new(json.RawMessage))
		})
		if err != nil {
			return err
		}
		if strings.Contains(name, "lora_") { // adapters name their tensors so
			info.Role = RoleAdapter
		}
		elements, err := e.check(name)
		if err != nil {
			return err
		}
		s := span{e.Offsets[0], e.Offsets[1]}
		h.spans = append(h.spans, s)
		dtype := e.Dtype
		if safetensorsBits[dtype] == 0 {
			dtype = ""
		}
		return tensors.add(dtype, elements, s.end-s.begin)
	})
	if err != nil {
		return Info{}, err
	}
	// Writers pad with spaces to align the data.
	if _, more := h.dec.Token(); !errors.Is(more, io.EOF) {
		return Info{}, &FileError{Reason: "has something behind the JSON of its header"}
	}
	tensors.describe(&info)
	return info, nil
}

// object reads a JSON object and has value decode what follows each key. The format
// forbids keys that repeat, which encoding/json accepts; what names a key in an
// error.
func (h *safetensorsHeader) object(what string, keys *uniqueNames, value func(key string) error) error {
	if t, err := h.dec.Token(); err != nil {
		return err
	} else if t != json.Delim('{') {
		return &FileError{Reason: fmt.Sprintf("has a header of the wrong shape: %.100q is not a JSON object", fmt.Sprint(t))}
	}
	for {
		t, err := h.dec.Token()
		if err != nil {
			return err
		}
		key, ok := t.(string)
		if !ok { // the closing brace
			return nil
		}
		if err := keys.add(what, key); err != nil {
			return err
		}
		if err := value(key); err != nil {
			return err
		}
	}
}

var errAllowance = fmt.Errorf("one entry is longer than %d bytes", safetensorsMaxEntry)

// fault returns err, which stopped the reading, as a *FileError.
func (h *safetensorsHeader) fault(err error) error {
	reason := "cannot be read"
	_, syntax := errors.AsType[*json.SyntaxError](err)
	_, shape := errors.AsType[*json.UnmarshalTypeError](err)
	_, ours := errors.AsType[*FileError](err)
	switch {
	case ours:
		return err
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		reason = "has a broken header"
		if h.entry.N <= 0 {
			err = errAllowance
		}
	case syntax:
		reason = "has a header that is not JSON"
	case shape:
		reason = "has a header of the wrong shape"
	}
	return &FileError{Reason: reason, Err: err}
}

// check returns the number of elements of the tensor. Without an error, its offsets
// are in order and fit its dtype and shape.
func (e *safetensorsEntry) check(name string) (elements uint64, err error) {
	if len(e.Offsets) != 2 || e.Offsets[0] > e.Offsets[1] || e.Offsets[1] > math.MaxInt64 {
		return 0, tensorFault(name, "without a begin and an end")
	}
	if e.Dtype == "" || e.Shape == nil {
		return 0, tensorFault(name, "without dtype and shape")
	}
	elements, ok := product(e.Shape...)
	if !ok {
		return 0, tensorFault(name, "of more elements than can be counted")
	}
	width := safetensorsBits[e.Dtype]
	if width == 0 { // newer than the table: its size is unknown
		return elements, nil
	}
	bitsTotal, ok := product(elements, width)
	if !ok || bitsTotal%8 != 0 || bitsTotal/8 != e.Offsets[1]-e.Offsets[0] {
		return 0, tensorFault(name, "of %d elements of %s in %d bytes", elements, e.Dtype, e.Offsets[1]-e.Offsets[0])
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
