package rest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// compareBody reads a text as several messages, and compares with what encoding/json and protojson
// make of the whole.
func compareBody(text string) error {
	b := newBody([]byte(text))
	if got, want := fmt.Sprint(b.syntax()), fmt.Sprint(json.Unmarshal([]byte(text), new(json.RawMessage))); got != want {
		return fmt.Errorf("syntax of %q: %s, want %s", text, got, want)
	}
	for _, empty := range []proto.Message{
		&keytreev1.BatchResolveRequest{}, &keytreev1.ResolveChangedRequest{}, &keytreev1.WatchRequest{}, &keytreev1.ProveAddressesRequest{}, &keytreev1.ResolveAddressRequest{},
		&keytreev1.BatchResolveResponse{}, // whose list has messages
	} {
		got, want := proto.Clone(empty), proto.Clone(empty)
		gotErr, wantErr := b.read(got), protojson.Unmarshal([]byte(text), want)
		if fmt.Sprint(gotErr) != fmt.Sprint(wantErr) || !proto.Equal(got, want) {
			return fmt.Errorf("%T of %q: %v, %v, want %v, %v", empty, text, got, gotErr, want, wantErr)
		}
	}
	return nil
}

// bodies are texts with a plain list, and such as differ from one in one thing.
var bodies = []string{
	``, ` `, `{`, `{}`, `[]`, `null`, `["a"]`, `"a"`, `{"addresses"`, `{"addresses":`, `{"addresses":[`, `{"addresses":["`, `{"addresses":["a`, `{"addresses":["a"`,
	`{"addresses":[]}`, `{"addresses":["a"]`, `{"addresses":["a"]}`, `{"addresses":[""]}`, " {\t\"addresses\"\n:\r[ \"a\" , \"b\" ] } ",
	`{"addresses":["a",]}`, `{"addresses":[,"a"]}`, `{"addresses":["a" "b"]}`, `{"addresses":["a"],}`, `{"addresses":["a"]}}`, `{"addresses":["a"]} {}`,
	`{"addresses":["a"],"at_height":5}`, `{"at_height":5,"addresses":["a"]}`, `{"atHeight":"5","addresses":["a"],"omitPath":true}`, `{"at_height":null,"addresses":["a"]}`,
	`{"at_height":5e0,"addresses":["a"]}`, `{"at_height":-1,"addresses":["a"]}`, `{"at_height":,"addresses":["a"]}`, `{"at_height":nul,"addresses":["a"]}`,
	`{"addresses":["a"],"addresses":["b"]}`, `{"addresses":["a"],"addresses":[]}`, `{"addresses":["a"],"addresses":null}`, `{"addresses":null,"addresses":["a"]}`,
	`{"addresses":["\u0061"]}`, `{"\u0061ddresses":["a"]}`, `{"addresses":["a\"b"]}`, `{"addresses":["a\\"]}`, "{\"addresses\":[\"a\x01\"]}", "{\"addresses\":[\"\x7f\"]}",
	"{\"addresses\":[\"\xff\"]}", `{"addresses":["ä"]}`, `{"addresses":["a"],"unknown":1}`, `{"unknown":["a"]}`, `{"unknown":["a"],"addresses":["b"]}`, `{"at_height":["a"]}`,
	`{"addresses":["a",1]}`, `{"addresses":[1,"a"]}`, `{"addresses":["a",null]}`, `{"addresses":[["a"]]}`, `{"addresses":"a"}`, `{"addresses":{"addresses":["a"]}}`,
	`{"ids":["a"],"addresses":["b"]}`, `{"addresses":["a"],"ids":["b"]}`, `{"resolutions":["a"]}`, `{"address":["a"]}`, `{"addresses":["a"],"since_height":1,"sinceHash":"\n"}`,
	`{addresses:["a"]}`, `{'addresses':['a']}`, `{"addresses":["a"]/**/}`, "\ufeff{\"addresses\":[\"a\"]}", `{"":["a"]}`, `{"[x]":["a"]}`, `{"addresses":["a"],"at_height":1e999}`,
}

func TestBodyIsReadAsAWhole(t *testing.T) {
	for _, text := range bodies {
		if err := compareBody(text); err != nil {
			t.Error(err)
		}
	}
	if newBody([]byte(`{"at_height":5,"addresses":["a"]}`)).list == nil {
		t.Error("a plain list is not found")
	}
}

// TestBodyProperty puts texts together from parts of such as are well formed.
func TestBodyProperty(t *testing.T) {
	value := rapid.OneOf(
		rapid.SampledFrom([]string{`"a"`, `""`, `"qz"`, `"\""`, `"\u00e4"`, `"ä"`, `1`, `-1`, `1.0`, `1E1`, `true`, `null`, `{}`, `[]`, `x`, ``, "\"\xff\""}),
		rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]string{`"a"`, `"bitcoincash:qq"`, `""`}), 0, 4), func(list []string) string { return "[" + strings.Join(list, ", ") + "]" }),
		rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]string{`"a"`, `"b,"`, `"]"`, `"\\"`, `1`, `null`, `["a"]`}), 0, 4), func(list []string) string { return "[" + strings.Join(list, ",") + "]" }),
	)
	name := rapid.SampledFrom([]string{`"addresses"`, `"addresses"`, `"ids"`, `"at_height"`, `"atHeight"`, `"since_hash"`, `"omit_path"`, `"unconfirmed"`, `"address"`, `"resolutions"`, `"\u0069ds"`, `"x"`, `x`})
	member := rapid.Custom(func(t *rapid.T) string {
		space := rapid.SampledFrom([]string{"", "", " ", "\n\t"})
		return space.Draw(t, "space") + name.Draw(t, "name") + space.Draw(t, "space") + ":" + space.Draw(t, "space") + value.Draw(t, "value") + space.Draw(t, "space")
	})
	rapid.Check(t, func(t *rapid.T) {
		text := "{" + strings.Join(rapid.SliceOfN(member, 0, 4).Draw(t, "members"), ",") + "}"
		if rapid.IntRange(0, 3).Draw(t, "is cut") == 0 {
			text = text[:rapid.IntRange(0, len(text)).Draw(t, "length")]
		}
		if err := compareBody(text); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzBody(f *testing.F) {
	for _, text := range bodies {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if err := compareBody(text); err != nil {
			t.Fatal(err)
		}
	})
}
