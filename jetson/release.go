package jetson

import (
	"strconv"
	"strings"

	"github.com/modeltier/modeltier/tier"
)

// Release is a release of L4T, NVIDIA's Linux for Tegra.
type Release struct {
	Major    int    // 36 of R36.4.7
	Revision string // "4.7"
}

// IsZero reports that the release is not known.
func (r Release) IsZero() bool { return r == Release{} }

// String returns "R36.4.7", or "unknown".
func (r Release) String() string {
	if r.IsZero() {
		return "unknown"
	}
	return "R" + strconv.Itoa(r.Major) + "." + r.Revision
}

// jetpacks are the releases whose JetPack is known to the digit.
var jetpacks = map[string]string{
	"R36.4.4": "6.2.1",
	"R36.4.7": "6.2.1",
	"R36.5":   "6.2.2",
	"R36.5.0": "6.2.2",
	"R38.4":   "7.1",
	"R38.4.0": "7.1",
	"R39.2":   "7.2",
	"R39.2.0": "7.2",
}

// JetPack returns the JetPack that the release came with: "6.2.1" where that is
// known to the digit, else its first figure, "" where not even that.
func (r Release) JetPack() string {
	if known := jetpacks[r.String()]; known != "" {
		return known
	}
	switch {
	case r.Major >= 38:
		return "7"
	case r.Major >= 36:
		return "6"
	case r.Major >= 34:
		return "5"
	case r.Major == 31 || r.Major == 32:
		return "4"
	}
	return ""
}

// ParseRelease reads the first line of /etc/nv_tegra_release:
// "# R36 (release), REVISION: 4.7, GCID: …". The error unwraps to
// tier.ErrInvalid.
func ParseRelease(line string) (Release, error) {
	first, rest, _ := strings.Cut(line, ",")
	first = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(first), "#"))
	number, _, _ := strings.Cut(strings.TrimPrefix(first, "R"), " ")
	major, err := strconv.Atoi(number)
	if err != nil || major <= 0 || major > 999 || !strings.HasPrefix(first, "R") {
		return Release{}, badRelease(line)
	}
	for field := range strings.SplitSeq(rest, ",") {
		revision, ok := strings.CutPrefix(strings.TrimSpace(field), "REVISION:")
		if revision = strings.TrimSpace(revision); ok && revision != "" && strings.Trim(revision, "0123456789.") == "" {
			return Release{Major: major, Revision: strings.Clone(revision)}, nil
		}
	}
	return Release{}, badRelease(line)
}

func badRelease(line string) error {
	return &tier.InvalidError{
		Field: "nv_tegra_release", Value: strconv.Quote(line[:min(len(line), 64)]),
		Rule: `must be "# R36 (release), REVISION: 4.7, …"`,
	}
}
