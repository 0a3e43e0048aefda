package llama

import (
	"errors"
	"testing"
)

func TestReleased_EachPlatform_ItsOwnPackageOrAnError(t *testing.T) {
	x64, hash, err := released("linux/amd64")
	arm, other, err2 := released("linux/arm64")
	if errors.Join(err, err2) != nil || x64 == arm || hash[:8] == other[:8] { // of the hash, that is the folder's name
		t.Errorf("%s %s %v, %s %s %v", x64, hash, err, arm, other, err2)
	}
	for _, platform := range []string{"linux/386", "darwin/arm64", "windows/amd64"} {
		if release, _, err := released(platform); !errors.Is(err, errElsewhere) {
			t.Errorf("%s: %s %v", platform, release, err)
		}
	}
}
