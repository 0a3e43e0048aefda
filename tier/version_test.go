package tier_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/modeltier/modeltier/tier"
)

func TestOtherVersion_OnlyWhereBothAreKnownByTheSameMeasure(t *testing.T) {
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{tier.VersionHeader + a, tier.VersionHeader + b, true}, {tier.VersionDigest + a, tier.VersionDigest + b, true},
		{tier.VersionHeader + a, tier.VersionHeader + a, false}, {tier.VersionHeader + a, tier.VersionDigest + b, false},
		{"", tier.VersionDigest + b, false}, {tier.VersionDigest + a, "", false}, {"", "", false},
	} {
		if got := tier.OtherVersion(c.a, c.b); got != c.want {
			t.Errorf("%q and %q: %v", c.a, c.b, got)
		}
	}
}

func TestModel_VersionOfAnotherForm_IsRefused(t *testing.T) {
	for version, ok := range map[string]bool{
		"": true, tier.VersionDigest + strings.Repeat("0f", 32): true, tier.VersionHeader + strings.Repeat("0f", 32): true,
		"v2": false, tier.VersionDigest + "abc": false, tier.VersionDigest + strings.Repeat("0F", 32): false, "md5:" + strings.Repeat("0f", 32): false,
	} {
		m := tier.Model{Name: "m", Size: 1, Version: version}
		if err := m.Validate(); (err == nil) != ok || !ok && !errors.Is(err, tier.ErrInvalid) {
			t.Errorf("%q: %v", version, err)
		}
	}
}
