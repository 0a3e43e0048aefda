module github.com/modeltier/modeltier/integrations/llama

go 1.26.0

require (
	github.com/ebitengine/purego v0.11.3
	github.com/modeltier/modeltier v0.0.0
)

require (
	github.com/prometheus/procfs v0.23.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0
)

replace github.com/modeltier/modeltier => ../..
