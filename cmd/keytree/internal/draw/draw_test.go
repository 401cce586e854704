package draw_test

import (
	"bytes"
	"testing"

	"github.com/keytree-bch/keytree/cmd/keytree/internal/draw"
)

func TestTree(t *testing.T) {
	for _, test := range []struct {
		name string
		keys []draw.Branch
		cut  bool
		want string
	}{
		{name: "nothing"},
		{
			name: "lone key",
			keys: []draw.Branch{{0, "A"}},
			want: "A\n",
		},
		{
			name: "chain",
			keys: []draw.Branch{{0, "A"}, {1, "B"}, {2, "C"}},
			want: "A\n└─ B\n   └─ C\n",
		},
		{
			name: "branches",
			keys: []draw.Branch{{0, "A"}, {1, "B"}, {2, "C"}, {2, "D"}, {3, "E"}, {1, "F"}, {2, "G"}, {1, "H"}},
			want: "A\n" +
				"├─ B\n" +
				"│  ├─ C\n" +
				"│  └─ D\n" +
				"│     └─ E\n" +
				"├─ F\n" +
				"│  └─ G\n" +
				"└─ H\n",
		},
		{
			name: "deep end, then back to the root",
			keys: []draw.Branch{{0, "A"}, {1, "B"}, {2, "C"}, {3, "D"}, {1, "E"}},
			want: "A\n├─ B\n│  └─ C\n│     └─ D\n└─ E\n",
		},
		{
			name: "cut: lines that may go on stay open",
			keys: []draw.Branch{{0, "A"}, {1, "B"}, {2, "C"}, {1, "D"}, {2, "E"}},
			cut:  true,
			want: "A\n├─ B\n│  └─ C\n├─ D\n│  ├─ E\n",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got bytes.Buffer
			draw.Tree(&got, test.keys, test.cut)
			if got.String() != test.want {
				t.Errorf("got\n%s\nwant\n%s", &got, test.want)
			}
		})
	}
}
