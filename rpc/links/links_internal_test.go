package links

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/indexer/node"
)

// TestRejectedByNobodyInParticular has the node reject a transaction: a stranger is told why, and not which node it was.
func TestRejectedByNobodyInParticular(t *testing.T) {
	err := (&Service{}).fault(fmt.Errorf("bchd at 10.0.0.7:8335: submitting transaction ab: %w: %q", node.ErrRejected, "bad signature"))
	if status.Code(err) != codes.FailedPrecondition || !strings.HasSuffix(err.Error(), `rejected by the node: "bad signature"`) || strings.Contains(err.Error(), "10.0.0.7") {
		t.Error(err)
	}
}
