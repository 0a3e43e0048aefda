package tier

import (
	"regexp"
	"strings"
)

// The two measures of a Model's Version.
const (
	// VersionDigest begins a version that is told by the SHA-256 of all the content.
	VersionDigest = "sha256:"
	// VersionHeader begins one that is told by what can be read at once of each file: its
	// size, its header, and samples of the rest.
	VersionHeader = "header:"
)

var versionForm = regexp.MustCompile(`^(?:` + VersionDigest + `|` + VersionHeader + `)[0-9a-f]{64}$`)

const versionRule = `must be "` + VersionDigest + `" or "` + VersionHeader + `" and 64 hexadecimal digits in lower case`

// OtherVersion reports whether a and b are versions of different content. It reports
// false where that is not known: one of them is "", or they were told by different
// measures.
func OtherVersion(a, b string) bool {
	measure, _, _ := strings.Cut(a, ":")
	return a != b && a != "" && strings.HasPrefix(b, measure+":")
}
