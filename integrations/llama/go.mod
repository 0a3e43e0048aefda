module github.com/modeltier/modeltier/integrations/llama

go 1.26.0

require (
	github.com/ardanlabs/jinja v1.1.0
	github.com/ebitengine/purego v0.11.3
	github.com/hybridgroup/yzma v1.28.0
	github.com/modeltier/modeltier v0.0.0
	golang.org/x/sys v0.49.0
)

require (
	github.com/jupiterrider/ffi v0.7.0 // indirect
	github.com/prometheus/procfs v0.23.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
)

replace github.com/modeltier/modeltier => ../..
