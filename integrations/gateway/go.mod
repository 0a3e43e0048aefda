module github.com/modeltier/modeltier/integrations/gateway

go 1.26.0

require github.com/modeltier/modeltier v0.0.0
