//go:build tools

// Package main names what else is built from this module, so that go.mod keeps it: the kubelet that
// the bench compares with.
package main

import (
	_ "k8s.io/kubernetes/cmd/kubelet/app"
)
