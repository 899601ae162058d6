//go:build tools

// Package main names what else is built from this module, so that go.mod keeps it: the kubelet that
// the bench compares with, and upstream's conformance tests with their runner and the program in most
// of their images.
package main

import (
	_ "github.com/onsi/ginkgo/v2/ginkgo"
	_ "k8s.io/kubernetes/cmd/kubelet/app"
	_ "k8s.io/kubernetes/test/e2e"
	_ "k8s.io/kubernetes/test/images/agnhost"
)
