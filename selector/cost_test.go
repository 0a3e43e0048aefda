package selector

import "testing"

// What it costs in time, the benchmarks say.
func TestSelect_AnyRequestAndLibrary_AllocatesNothing(t *testing.T) {
	for _, n := range sizes {
		lib := benchLibrary(t, n)
		v := benchView(lib)
		s := New()
		for name, req := range benchRequests(lib) {
			for _, req.Policy = range []string{PolicyRecorded, PolicyAdaptive} {
				f := func() {
					if _, err := s.Select(&req, v); err != nil {
						t.Fatal(err)
					}
				}
				f()
				if a := testing.AllocsPerRun(100, f); a != 0 {
					t.Errorf("%d models, %s, %s: %v allocations", n, name, req.Policy, a)
				}
			}
		}
	}
}
