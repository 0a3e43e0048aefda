package serve

import (
	"github.com/modeltier/modeltier/integrations/gateway"
	"github.com/modeltier/modeltier/integrations/gateway/access"
)

// accessOf says who may send requests: the holder of a token everything or, if there is
// none, all that is on this machine. loopback says that nothing else reaches the listeners.
func accessOf(token string, loopback bool) access.Options {
	o := access.Options{Loopback: loopback, ScopeOf: gateway.ScopeOf, Deny: gateway.Deny}
	if token != "" {
		o.Keys = []access.Key{{
			Name: tokenVariable, Secret: access.Secret(token),
			Scopes: []access.Scope{access.Use, access.Manage, access.Watch},
		}}
	}
	return o
}
