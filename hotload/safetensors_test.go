package hotload

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/modeltier/modeltier/tier"
	"pgregory.net/rapid"
)

func readSafetensors(b []byte) (Info, error) {
	return ReadSafetensors(bytes.NewReader(b), int64(len(b)))
}

// safetensorsFile is a header as it stands, and so many bytes of data.
func safetensorsFile(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, data)...)
}

// smallSafetensors is a right file of two tensors, padded as writers do.
func smallSafetensors() []byte {
	return safetensorsFile(`{"__metadata__":{"format":"pt","modelspec.title":"Small"},`+
		`"norm":{"dtype":"F32","shape":[4],"data_offsets":[64,80]},`+
		`"embed":{"dtype":"BF16","shape":[8,4],"data_offsets":[0,64]}}   `, 80)
}

func TestReadSafetensors_RightFile_SaysWhatItIs(t *testing.T) {
	got, err := readSafetensors(smallSafetensors())
	if err != nil {
		t.Fatal(err)
	}
	want := Info{Format: FormatSafetensors, Title: "Small", TensorBytes: 80, Tensors: 2, Parameters: 36, Quantisation: "BF16"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if info, err := readSafetensors(safetensorsFile(`{}`, 0)); err != nil || info.Tensors != 0 {
		t.Errorf("no tensors: %+v, %v", info, err)
	}
	if info, err := readSafetensors(safetensorsFile(`{"x":{"dtype":"I8","shape":[],"data_offsets":[0,1]}}`, 1)); err != nil || info.Parameters != 1 {
		t.Errorf("a scalar: %+v, %v", info, err)
	}
	if info, err := readSafetensors(safetensorsFile(`{"x":{"dtype":"F4","shape":[3,2],"data_offsets":[0,3]}}`, 3)); err != nil || info.Parameters != 6 {
		t.Errorf("half bytes: %+v, %v", info, err)
	}
	if info, err := readSafetensors(safetensorsFile(`{"x":{"dtype":"F1_NEW","shape":[9],"data_offsets":[0,3]}}`, 3)); err != nil || info.TensorBytes != 3 || info.Quantisation != "" {
		t.Errorf("a dtype of the future: %+v, %v", info, err)
	}
	if info, err := readSafetensors(safetensorsFile(`{"m.lora_A.weight":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}`, 1)); err != nil || info.Role != RoleAdapter {
		t.Errorf("an adapter: %+v, %v", info, err)
	}
}

func TestReadSafetensors_CutAnywhere_SaysTruncatedAndHowMuch(t *testing.T) {
	whole := smallSafetensors()
	for n := range whole {
		_, err := readSafetensors(whole[:n])
		e, ok := errors.AsType[*FileError](err)
		if !ok || !errors.Is(err, tier.ErrInvalid) || e.Missing <= 0 || int(e.Missing) > len(whole)-n {
			t.Fatalf("cut to %d of %d: %v, missing %d", n, len(whole), err, e.Missing)
		}
		if n >= len(whole)-80 && int(e.Missing) != len(whole)-n {
			t.Errorf("cut to %d of %d: says that %d are missing", n, len(whole), e.Missing)
		}
	}
}

func TestReadSafetensors_Broken_ErrorNamesWhatIsWrong(t *testing.T) {
	one := func(entry string) string { return `{"x":` + entry + `}` }
	for _, tt := range []struct{ name, header, want string }{
		{"no JSON", `hello`, "not JSON"},
		{"nothing", ``, "broken header"},
		{"spaces", `    `, "broken header"},
		{"zeros", strings.Repeat("\x00", 64), "not JSON"},
		{"an array", `[]`, "not a JSON object"},
		{"tensor twice", `{"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"I8","shape":[4],"data_offsets":[4,8]}}`, `tensor "a" twice`},
		{"tensor twice, written otherwise", `{"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]},"\u0061":{"dtype":"I8","shape":[4],"data_offsets":[4,8]}}`, `tensor "a" twice`},
		{"metadata twice", `{"__metadata__":{},"__metadata__":{}}`, `"__metadata__" twice`},
		{"metadata key twice", `{"__metadata__":{"a":"b","a":"c"}}`, `metadata key "a" twice`},
		{"key of a tensor twice", one(`{"dtype":"I8","dtype":"F64","shape":[8],"data_offsets":[0,8]}`), `key "dtype" twice`},
		{"two objects", `{}{}`, "behind the JSON"},
		{"unfinished", `{"x":{"dtype":"I8","shape":[1],`, "broken header"},
		{"entry of text", one(`"text"`), "wrong shape"},
		{"entry of nothing", one(`null`), "wrong shape"},
		{"keys in capitals", one(`{"DTYPE":"I8","Shape":[8],"Data_Offsets":[0,8]}`), "without a begin"},
		{"no offsets", one(`{"dtype":"I8","shape":[1]}`), "without a begin"},
		{"one offset", one(`{"dtype":"I8","shape":[1],"data_offsets":[0]}`), "without a begin"},
		{"three offsets", one(`{"dtype":"I8","shape":[1],"data_offsets":[0,1,2]}`), "without a begin"},
		{"offsets backwards", one(`{"dtype":"I8","shape":[1],"data_offsets":[1,0]}`), "without a begin"},
		{"negative offset", one(`{"dtype":"I8","shape":[1],"data_offsets":[-1,0]}`), "wrong shape"},
		{"huge offset", one(`{"dtype":"I8","shape":[1],"data_offsets":[0,18446744073709551615]}`), "without a begin"},
		{"offset beyond 64 bits", one(`{"dtype":"I8","shape":[1],"data_offsets":[0,99999999999999999999]}`), "wrong shape"},
		{"no dtype", one(`{"shape":[1],"data_offsets":[0,1]}`), "without dtype"},
		{"no shape", one(`{"dtype":"I8","data_offsets":[0,1]}`), "without dtype"},
		{"negative shape", one(`{"dtype":"I8","shape":[-1],"data_offsets":[0,1]}`), "wrong shape"},
		{"shape of NaN", one(`{"dtype":"I8","shape":[NaN],"data_offsets":[0,1]}`), "not JSON"},
		{"too many elements", one(`{"dtype":"I8","shape":[4294967296,4294967296],"data_offsets":[0,1]}`), "elements"},
		{"too many bits", one(`{"dtype":"F64","shape":[9223372036854775807],"data_offsets":[0,1]}`), "elements of F64"},
		{"shape does not fit", one(`{"dtype":"F32","shape":[3],"data_offsets":[0,8]}`), "3 elements of F32 in 8 bytes"},
		{"part of a byte", one(`{"dtype":"F4","shape":[3],"data_offsets":[0,1]}`), "3 elements of F4"},
		{"a hole before", one(`{"dtype":"I8","shape":[4],"data_offsets":[4,8]}`), "hole at byte 0"},
		{"an overlap", `{"a":{"dtype":"I8","shape":[5],"data_offsets":[0,5]},"b":{"dtype":"I8","shape":[4],"data_offsets":[4,8]}}`, "overlap"},
		{"the same place twice", `{"a":{"dtype":"I8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"I8","shape":[8],"data_offsets":[0,8]}}`, "overlap"},
		{"bytes behind", one(`{"dtype":"I8","shape":[3],"data_offsets":[0,3]}`), "5 bytes behind"},
		{"metadata of numbers", `{"__metadata__":{"a":1}}`, "wrong shape"},
		{"a long entry", `{"` + strings.Repeat("n", 3*safetensorsMaxEntry) + `":1}`, "longer than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			info, err := readSafetensors(safetensorsFile(tt.header, 8))
			if !errors.Is(err, tier.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%+v, error %v; want one about %q", info, err, tt.want)
			}
		})
	}
	for _, claim := range []uint64{safetensorsMaxHeader + 1, math.MaxUint64, 1 << 63} {
		b := binary.LittleEndian.AppendUint64(nil, claim)
		if _, err := ReadSafetensors(sparse{b}, math.MaxInt64); !errors.Is(err, tier.ErrInvalid) || !strings.Contains(err.Error(), "claims a header") {
			t.Errorf("a header of %d bytes: %v", claim, err)
		}
	}
}

func TestReadSafetensors_ReadFails_ErrorOfTheDeviceComesBack(t *testing.T) {
	broken := errors.New("input/output error")
	file := smallSafetensors()
	_, err := ReadSafetensors(readerAt(func(p []byte, off int64) (int, error) {
		if off == 0 {
			return copy(p, file), nil
		}
		return 0, broken
	}), int64(len(file)))
	if !errors.Is(err, broken) || !errors.Is(err, tier.ErrInvalid) {
		t.Error(err)
	}
}

func TestReadSafetensors_HugeEntry_MemoryStaysSmall(t *testing.T) {
	head := binary.LittleEndian.AppendUint64(nil, safetensorsMaxHeader)
	head = append(head, `{"`...)
	endless := readerAt(func(p []byte, off int64) (int, error) {
		for i := range p {
			p[i] = 'x'
		}
		if off < int64(len(head)) {
			copy(p, head[off:])
		}
		return len(p), nil
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := ReadSafetensors(endless, 1<<40)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, errAllowance) {
		t.Errorf("error %v", err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
		t.Errorf("%d bytes were allocated", grown)
	}
}

func TestReadSafetensors_AnyFile_SumsMatchTheBuilder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		header := make(map[string]safetensorsEntry)
		var at, parameters uint64
		for i := range rapid.IntRange(0, 6).Draw(t, "tensors") {
			dtype := rapid.SampledFrom([]string{"U8", "F16", "F32", "I64", "F8_E4M3"}).Draw(t, "dtype")
			shape := rapid.SliceOfN(rapid.Uint64Range(0, 5), 0, 4).Draw(t, "shape")
			elements := uint64(1)
			for _, d := range shape {
				elements *= d
			}
			size := elements * safetensorsBits[dtype] / 8
			header[fmt.Sprint(rapid.String().Draw(t, "name"), i)] = safetensorsEntry{dtype, shape, []uint64{at, at + size}}
			at, parameters = at+size, parameters+elements
		}
		raw, err := json.Marshal(header)
		if err != nil {
			t.Fatal(err)
		}
		file := safetensorsFile(string(raw), int(at))
		info, err := readSafetensors(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Tensors != int64(len(header)) || uint64(info.Parameters) != parameters || uint64(info.TensorBytes) != at {
			t.Fatalf("%+v of %d tensors, %d elements, %d bytes", info, len(header), parameters, at)
		}
		if _, err := readSafetensors(append(file, 0)); err == nil {
			t.Fatal("a byte more is no error")
		}
	})
}

func FuzzReadSafetensors(f *testing.F) {
	f.Add(smallSafetensors())
	f.Add(safetensorsFile(`{}`, 0))
	f.Add(safetensorsFile(`{"x":{"dtype":"F4","shape":[3,2],"data_offsets":[0,3]}}`, 3))
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := readSafetensors(data)
		if err != nil {
			if e, ok := errors.AsType[*FileError](err); !ok || e.Missing < 0 {
				t.Fatalf("error %v of type %T", err, err)
			}
			return
		}
		if info.TensorBytes < 0 || int(info.TensorBytes) > len(data) || info.Parameters < 0 {
			t.Fatalf("%+v of %d bytes", info, len(data))
		}
		info.Name, info.Size = "a", 1
		m := info.Model("a")
		if err := m.Validate(); err != nil {
			t.Fatal(err)
		}
	})
}

// BenchmarkReadSafetensors reads a header of 2000 tensors.
func BenchmarkReadSafetensors(b *testing.B) {
	var header strings.Builder
	header.WriteByte('{')
	const tensors = 2000
	for i := range tensors {
		if i > 0 {
			header.WriteByte(',')
		}
		fmt.Fprintf(&header, `"model.layers.%d.self_attn.q_proj.weight":{"dtype":"BF16","shape":[2,2],"data_offsets":[%d,%d]}`, i, 8*i, 8*i+8)
	}
	header.WriteByte('}')
	data := safetensorsFile(header.String(), 8*tensors)
	b.ReportAllocs()
	b.SetBytes(int64(header.Len()))
	for b.Loop() {
		if _, err := readSafetensors(data); err != nil {
			b.Fatal(err)
		}
	}
}
