package ctl

import (
	"github.com/modeltier/modeltier/integrations/gateway/config"
	"github.com/modeltier/modeltier/tier"
)

// size is a flag, or an argument, that is a number of bytes: "5GB", "320MiB", "0.5 G".
type size struct {
	bytes tier.Bytes
	said  bool
}

func (s *size) String() string {
	if s == nil || !s.said {
		return ""
	}
	return s.bytes.String()
}

func (*size) Type() string { return "size" }

// Set reads a size; "0" and "none" are none at all.
func (s *size) Set(text string) (err error) {
	s.said = true
	if text == "none" {
		s.bytes = 0
		return nil
	}
	s.bytes, err = config.ParseSize(text)
	return err
}
