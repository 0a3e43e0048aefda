// Package access decides who may send a request to the gateway: by keys with names and
// scopes or, where there is no key, by being on this machine and no web page.
//
// The three names that matter: Listen opens addresses, and without a key none that other
// machines reach; Guard stands before a handler and admits requests; From tells the handler
// whose key a request came with. The key itself goes no further than the Guard, which keeps
// digests of keys only.
//
// Traffic is not encrypted, and guessing is not slowed: a limit by address would let one
// client lock out all others behind the same proxy. Beyond a trusted network a proxy with
// TLS belongs in front, and keys have to be long and random.
package access
