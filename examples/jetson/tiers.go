package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

// fetchTiers asks a modeltier server what is in its tiers and returns a line for
// each. Without a server it returns none. A server that wants a token gets that of
// the environment, as the example server does.
func fetchTiers(ctx context.Context, server string) []string {
	if server == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server, strings.NewReader(`{"tier_status": true}`))
	if err != nil {
		return []string{"tiers    " + err.Error()}
	}
	req.Header.Set("Content-Type", "application/json")
	if token := os.Getenv("MODELTIER_TOKEN"); token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return []string{"tiers    " + err.Error()}
	}
	defer resp.Body.Close()
	var status struct {
		Tiers map[string]struct {
			Used   float64 `json:"used_gb"`
			Limit  float64 `json:"limit_gb"`
			Models int     `json:"models"`
		} `json:"tiers"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, resp.Body, 1<<20)).Decode(&status); err != nil {
		return []string{"tiers    the answer is not that of a modeltier server: " + err.Error()}
	}
	var out []string
	for _, name := range []string{"ram", "swap"} {
		if t, ok := status.Tiers[name]; ok {
			out = append(out, fmt.Sprintf("%-8s %s %.1f of %.1f GiB, %d models", "tier "+name, bar(t.Used, t.Limit), t.Used, t.Limit, t.Models))
		}
	}
	return out
}
