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

func versioned(name, of, digits string) tier.Model {
	return tier.Model{Name: name, VersionOf: of, Size: 1, Version: tier.VersionHeader + digits + strings.Repeat("0", 64-len(digits))}
}

func TestFind_NameAtVersion_IsThatVersionAlone(t *testing.T) {
	lib, err := tier.NewLibrary([]tier.Model{
		versioned("a", "", "111111aa"), versioned("a@111111bb0000", "a", "111111bb"), versioned("a@222222222222", "a", "222222222222"),
		versioned("a@twin", "a", "111111aa"), // as it leaves
		versioned("mail@example", "", "3333333"), {Name: "none", Size: 1}, versioned("a@22222222", "", "44444444"),
	})
	if err != nil {
		t.Fatal(err)
	}
	lib = lib.WithAliases(map[string]string{"chat": "a", "old": "a@222222222222", "new": "a@111111aa", "lost": "a@9999999", "of": "chat@222222"})
	for name, want := range map[string]string{
		"a": "a", "a@111111aa": "a", "a@111111AA": "a", "a@header:111111aa": "a", "a@111111bb": "a@111111bb0000", "a@222222": "a@222222222222",
		"a@22222222":  "a@22222222", // the owner's own name goes first
		"chat@222222": "a@222222222222", "old": "a@222222222222", "old@111111aa": "a", "new": "a", "mail@example": "mail@example", "mail@example@3333333": "mail@example",
		"a@111111": "", "a@11111": "", "a@": "", "@111111aa": "", "a@333333": "", "a@zzzzzz": "", "none@111111": "", "unknown@111111aa": "", "lost": "", "of": "",
	} {
		got := ""
		if i, ok := lib.Find(name); ok {
			got = lib.At(i).Name
		}
		if got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
	if lib = lib.With(versioned("a", "", "555555")); lib.AliasesOf(0) == nil || len(lib.AliasesOf(0)) != 1 {
		t.Errorf("a is another version, and has the aliases %q", lib.AliasesOf(0))
	}
}

func TestUnknown_Version_NamesThoseThatThereAre(t *testing.T) {
	lib, err := tier.NewLibrary([]tier.Model{versioned("Llama-3", "", "111111aa"), versioned("Llama-3@111111bb0000", "Llama-3", "111111bb"), {Name: "none", Size: 1}})
	if err != nil {
		t.Fatal(err)
	}
	for name, says := range map[string][]string{
		"Llama-3@111111":   {"several versions of 'Llama-3'", "Llama-3@111111aa0000, Llama-3@111111bb0000"},
		"Llama-3@222222":   {"'Llama-3' has no such version", "Llama-3@111111aa0000, Llama-3@111111bb0000"},
		"Llama-3@11":       {"'Llama-3' has no such version", "six digits"},
		"none@222222":      {"'none' has no such version", "version is not known"},
		"llama 3@111111aa": {"not found", "Did you mean Llama-3?"},
		"ｌｌａｍａ_3":          {"not found", "Did you mean Llama-3?"},
	} {
		err := lib.Unknown(name)
		text := err.Error() + strings.Join(err.Suggestions(), " ")
		for _, want := range says {
			if !strings.Contains(text, want) {
				t.Errorf("%q: %s does not say %q", name, text, want)
			}
		}
	}
}

func TestAutoWithAVersion_IsNobodysName(t *testing.T) {
	m := tier.Model{Name: tier.AutoName + "@111111", Size: 1}
	if err := m.Validate(); !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("a model: %v", err)
	}
	if err := tier.CheckAlias("alias", m.Name); !errors.Is(err, tier.ErrInvalid) {
		t.Errorf("an alias: %v", err)
	}
	if m.Name = "automatic@1"; m.Validate() != nil {
		t.Error("a name that only begins so is refused")
	}
}
