// Package asuser is for tests of what a user without rights may do. A test that root
// runs, as in a container, is run again as such a user.
package asuser
