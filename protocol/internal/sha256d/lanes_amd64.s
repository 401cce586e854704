#include "textflag.h"

// The round constants of SHA-256 (FIPS 180-4, 4.2.2), two in each line.
DATA K<>+0x00(SB)/8, $0x71374491428a2f98
DATA K<>+0x08(SB)/8, $0xe9b5dba5b5c0fbcf
DATA K<>+0x10(SB)/8, $0x59f111f13956c25b
DATA K<>+0x18(SB)/8, $0xab1c5ed5923f82a4
DATA K<>+0x20(SB)/8, $0x12835b01d807aa98
DATA K<>+0x28(SB)/8, $0x550c7dc3243185be
DATA K<>+0x30(SB)/8, $0x80deb1fe72be5d74
DATA K<>+0x38(SB)/8, $0xc19bf1749bdc06a7
DATA K<>+0x40(SB)/8, $0xefbe4786e49b69c1
DATA K<>+0x48(SB)/8, $0x240ca1cc0fc19dc6
DATA K<>+0x50(SB)/8, $0x4a7484aa2de92c6f
DATA K<>+0x58(SB)/8, $0x76f988da5cb0a9dc
DATA K<>+0x60(SB)/8, $0xa831c66d983e5152
DATA K<>+0x68(SB)/8, $0xbf597fc7b00327c8
DATA K<>+0x70(SB)/8, $0xd5a79147c6e00bf3
DATA K<>+0x78(SB)/8, $0x1429296706ca6351
DATA K<>+0x80(SB)/8, $0x2e1b213827b70a85
DATA K<>+0x88(SB)/8, $0x53380d134d2c6dfc
DATA K<>+0x90(SB)/8, $0x766a0abb650a7354
DATA K<>+0x98(SB)/8, $0x92722c8581c2c92e
DATA K<>+0xa0(SB)/8, $0xa81a664ba2bfe8a1
DATA K<>+0xa8(SB)/8, $0xc76c51a3c24b8b70
DATA K<>+0xb0(SB)/8, $0xd6990624d192e819
DATA K<>+0xb8(SB)/8, $0x106aa070f40e3585
DATA K<>+0xc0(SB)/8, $0x1e376c0819a4c116
DATA K<>+0xc8(SB)/8, $0x34b0bcb52748774c
DATA K<>+0xd0(SB)/8, $0x4ed8aa4a391c0cb3
DATA K<>+0xd8(SB)/8, $0x682e6ff35b9cca4f
DATA K<>+0xe0(SB)/8, $0x78a5636f748f82ee
DATA K<>+0xe8(SB)/8, $0x8cc7020884c87814
DATA K<>+0xf0(SB)/8, $0xa4506ceb90befffa
DATA K<>+0xf8(SB)/8, $0xc67178f2bef9a3f7
GLOBL K<>(SB), RODATA|NOPTR, $256

// The constants of all rounds with the words of what follows a message of 64 bytes
// added, which is the same for all.
DATA KW<>+0x00(SB)/8, $0x71374491c28a2f98
DATA KW<>+0x08(SB)/8, $0xe9b5dba5b5c0fbcf
DATA KW<>+0x10(SB)/8, $0x59f111f13956c25b
DATA KW<>+0x18(SB)/8, $0xab1c5ed5923f82a4
DATA KW<>+0x20(SB)/8, $0x12835b01d807aa98
DATA KW<>+0x28(SB)/8, $0x550c7dc3243185be
DATA KW<>+0x30(SB)/8, $0x80deb1fe72be5d74
DATA KW<>+0x38(SB)/8, $0xc19bf3749bdc06a7
DATA KW<>+0x40(SB)/8, $0xf0fe4786649b69c1
DATA KW<>+0x48(SB)/8, $0x240cf2540fe1edc6
DATA KW<>+0x50(SB)/8, $0x6cc984be4fe9346f
DATA KW<>+0x58(SB)/8, $0x16f988fa61b9411e
DATA KW<>+0x60(SB)/8, $0xa88e5a6df2c65152
DATA KW<>+0x68(SB)/8, $0xb9d99ec7b019fc65
DATA KW<>+0x70(SB)/8, $0xe70eeaa09a1231c3
DATA KW<>+0x78(SB)/8, $0xc7353eb0fdb1232b
DATA KW<>+0x80(SB)/8, $0xcb976d5f3069bad5
DATA KW<>+0x88(SB)/8, $0xdc1eeefd5a0f118f
DATA KW<>+0x90(SB)/8, $0xde0b7a040a35b689
DATA KW<>+0x98(SB)/8, $0xe15d5b1658f4ca9d
DATA KW<>+0xa0(SB)/8, $0x37088980007f3e86
DATA KW<>+0xa8(SB)/8, $0x6fab9537a507ea32
DATA KW<>+0xb0(SB)/8, $0x0d8cd6f117406110
DATA KW<>+0xb8(SB)/8, $0xc0bbbe37cdaa3b6d
DATA KW<>+0xc0(SB)/8, $0xdb48a36383613bda
DATA KW<>+0xc8(SB)/8, $0x6fd15ca70b02e931
DATA KW<>+0xd0(SB)/8, $0x31338431521afaca
DATA KW<>+0xd8(SB)/8, $0x6d4378906ed41a95
DATA KW<>+0xe0(SB)/8, $0x9eccabbdc39c91f2
DATA KW<>+0xe8(SB)/8, $0x532fb63cb5c9a0e6
DATA KW<>+0xf0(SB)/8, $0x07237ea3d2c741c6
DATA KW<>+0xf8(SB)/8, $0x4c191d76a4954b68
GLOBL KW<>(SB), RODATA|NOPTR, $256

// swap turns the bytes of each word around.
DATA swap<>+0x00(SB)/8, $0x0405060700010203
DATA swap<>+0x08(SB)/8, $0x0c0d0e0f08090a0b
DATA swap<>+0x10(SB)/8, $0x0405060700010203
DATA swap<>+0x18(SB)/8, $0x0c0d0e0f08090a0b
DATA swap<>+0x20(SB)/8, $0x0405060700010203
DATA swap<>+0x28(SB)/8, $0x0c0d0e0f08090a0b
DATA swap<>+0x30(SB)/8, $0x0405060700010203
DATA swap<>+0x38(SB)/8, $0x0c0d0e0f08090a0b
GLOBL swap<>(SB), RODATA|NOPTR, $64

// The state before the first block (FIPS 180-4, 5.3.3).
DATA initial<>+0x00(SB)/8, $0xbb67ae856a09e667
DATA initial<>+0x08(SB)/8, $0xa54ff53a3c6ef372
DATA initial<>+0x10(SB)/8, $0x9b05688c510e527f
DATA initial<>+0x18(SB)/8, $0x5be0cd191f83d9ab
GLOBL initial<>(SB), RODATA|NOPTR, $32

// The words behind those of a message of 32 bytes: the first and the last of its
// padding; between them are zeros.
DATA padding<>+0x00(SB)/8, $0x0000010080000000
GLOBL padding<>(SB), RODATA|NOPTR, $8

// A register holds one word of each of the 16 lanes:
//
//	Z0 to Z15   the message's words, and in their place the next 16, and so on
//	Z16 to Z23  the state, a to h, which change their roles in each round
//	Z24 to Z26  scratch
//
// While the words are brought into this order, Z16 to Z31 are scratch.

// LOAD reads the next block of one lane.
#define LOAD(lane, Z) \
	MOVQ      (8*lane)(SI), DX; \
	VMOVDQU32 (DX)(CX*1), Z

// TURN4 turns four lanes' words around, within each quarter of the registers.
#define TURN4(A, B, C, D, S, T, U, V) \
	VPUNPCKLDQ  B, A, S; \
	VPUNPCKHDQ  B, A, T; \
	VPUNPCKLDQ  D, C, U; \
	VPUNPCKHDQ  D, C, V; \
	VPUNPCKLQDQ U, S, A; \
	VPUNPCKHQDQ U, S, B; \
	VPUNPCKLQDQ V, T, C; \
	VPUNPCKHQDQ V, T, D

// QUARTERS gathers the quarters of four registers in which the same words are of
// four lanes each, and turns the bytes around.
#define QUARTERS(A, B, C, D, S, T, U, V) \
	VSHUFI32X4 $0x88, B, A, S; \
	VSHUFI32X4 $0xdd, B, A, T; \
	VSHUFI32X4 $0x88, D, C, U; \
	VSHUFI32X4 $0xdd, D, C, V; \
	VSHUFI32X4 $0x88, U, S, A; \
	VSHUFI32X4 $0x88, V, T, B; \
	VSHUFI32X4 $0xdd, U, S, C; \
	VSHUFI32X4 $0xdd, V, T, D; \
	VPSHUFB    Z31, A, A;      \
	VPSHUFB    Z31, B, B;      \
	VPSHUFB    Z31, C, C;      \
	VPSHUFB    Z31, D, D

// TURN makes of a register for each lane, with the lane's words, one for each word,
// or the other way round, and turns the bytes of all words around. Between its two
// halves register 4g+k has of lanes 4g to 4g+3 the words k, 4+k, 8+k, 12+k.
#define TURN() \
	TURN4(Z0, Z1, Z2, Z3, Z16, Z17, Z18, Z19);     \
	TURN4(Z4, Z5, Z6, Z7, Z16, Z17, Z18, Z19);     \
	TURN4(Z8, Z9, Z10, Z11, Z16, Z17, Z18, Z19);   \
	TURN4(Z12, Z13, Z14, Z15, Z16, Z17, Z18, Z19); \
	QUARTERS(Z0, Z4, Z8, Z12, Z16, Z17, Z18, Z19); \
	QUARTERS(Z1, Z5, Z9, Z13, Z16, Z17, Z18, Z19); \
	QUARTERS(Z2, Z6, Z10, Z14, Z16, Z17, Z18, Z19); \
	QUARTERS(Z3, Z7, Z11, Z15, Z16, Z17, Z18, Z19)

// MIX is the rest of a round, when its word and its constant are in H.
#define MIX(A, B, C, D, E, F, G, H) \
	VPRORD      $6, E, Z24;             \
	VPRORD      $11, E, Z25;            \
	VPRORD      $25, E, Z26;            \
	VPTERNLOGD  $0x96, Z26, Z25, Z24;   \
	VMOVDQA32   E, Z25;                 \
	VPTERNLOGD  $0xca, G, F, Z25;       \
	VPADDD      Z24, H, H;              \
	VPADDD      Z25, H, H;              \
	VPADDD      H, D, D;                \
	VPRORD      $2, A, Z24;             \
	VPRORD      $13, A, Z25;            \
	VPRORD      $22, A, Z26;            \
	VPTERNLOGD  $0x96, Z26, Z25, Z24;   \
	VMOVDQA32   A, Z25;                 \
	VPTERNLOGD  $0xe8, C, B, Z25;       \
	VPADDD      Z24, H, H;              \
	VPADDD      Z25, H, H

// ROUND is one round with the word W and the constant at k.
#define ROUND(k, W, A, B, C, D, E, F, G, H) \
	VPADDD.BCST K<>+k(SB), W, Z24; \
	VPADDD      Z24, H, H;         \
	MIX(A, B, C, D, E, F, G, H)

// SUM is one round with the word that has been added to the constant at k.
#define SUM(k, A, B, C, D, E, F, G, H) \
	VPADDD.BCST KW<>+k(SB), H, H; \
	MIX(A, B, C, D, E, F, G, H)

// NEXT makes the word W into the one that comes 16 later, given those that now
// come 1, 9 and 14 after it.
#define NEXT(W, W1, W9, W14) \
	VPADDD     W9, W, W;             \
	VPRORD     $7, W1, Z24;          \
	VPRORD     $18, W1, Z25;         \
	VPSRLD     $3, W1, Z26;          \
	VPTERNLOGD $0x96, Z26, Z25, Z24; \
	VPADDD     Z24, W, W;            \
	VPRORD     $17, W14, Z24;        \
	VPRORD     $19, W14, Z25;        \
	VPSRLD     $10, W14, Z26;        \
	VPTERNLOGD $0x96, Z26, Z25, Z24; \
	VPADDD     Z24, W, W

// ROUNDS is sixteen rounds with the constants from k on.
#define ROUNDS(k) \
	ROUND(k+0, Z0, Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23); \
	ROUND(k+4, Z1, Z23, Z16, Z17, Z18, Z19, Z20, Z21, Z22); \
	ROUND(k+8, Z2, Z22, Z23, Z16, Z17, Z18, Z19, Z20, Z21); \
	ROUND(k+12, Z3, Z21, Z22, Z23, Z16, Z17, Z18, Z19, Z20); \
	ROUND(k+16, Z4, Z20, Z21, Z22, Z23, Z16, Z17, Z18, Z19); \
	ROUND(k+20, Z5, Z19, Z20, Z21, Z22, Z23, Z16, Z17, Z18); \
	ROUND(k+24, Z6, Z18, Z19, Z20, Z21, Z22, Z23, Z16, Z17); \
	ROUND(k+28, Z7, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z16); \
	ROUND(k+32, Z8, Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23); \
	ROUND(k+36, Z9, Z23, Z16, Z17, Z18, Z19, Z20, Z21, Z22); \
	ROUND(k+40, Z10, Z22, Z23, Z16, Z17, Z18, Z19, Z20, Z21); \
	ROUND(k+44, Z11, Z21, Z22, Z23, Z16, Z17, Z18, Z19, Z20); \
	ROUND(k+48, Z12, Z20, Z21, Z22, Z23, Z16, Z17, Z18, Z19); \
	ROUND(k+52, Z13, Z19, Z20, Z21, Z22, Z23, Z16, Z17, Z18); \
	ROUND(k+56, Z14, Z18, Z19, Z20, Z21, Z22, Z23, Z16, Z17); \
	ROUND(k+60, Z15, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z16)

// EXTEND makes the next sixteen words.
#define EXTEND() \
	NEXT(Z0, Z1, Z9, Z14); \
	NEXT(Z1, Z2, Z10, Z15); \
	NEXT(Z2, Z3, Z11, Z0); \
	NEXT(Z3, Z4, Z12, Z1); \
	NEXT(Z4, Z5, Z13, Z2); \
	NEXT(Z5, Z6, Z14, Z3); \
	NEXT(Z6, Z7, Z15, Z4); \
	NEXT(Z7, Z8, Z0, Z5); \
	NEXT(Z8, Z9, Z1, Z6); \
	NEXT(Z9, Z10, Z2, Z7); \
	NEXT(Z10, Z11, Z3, Z8); \
	NEXT(Z11, Z12, Z4, Z9); \
	NEXT(Z12, Z13, Z5, Z10); \
	NEXT(Z13, Z14, Z6, Z11); \
	NEXT(Z14, Z15, Z7, Z12); \
	NEXT(Z15, Z0, Z8, Z13)

// SUMS is eight rounds with the words and constants from k on.
#define SUMS(k) \
	SUM(k+0, Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23); \
	SUM(k+4, Z23, Z16, Z17, Z18, Z19, Z20, Z21, Z22); \
	SUM(k+8, Z22, Z23, Z16, Z17, Z18, Z19, Z20, Z21); \
	SUM(k+12, Z21, Z22, Z23, Z16, Z17, Z18, Z19, Z20); \
	SUM(k+16, Z20, Z21, Z22, Z23, Z16, Z17, Z18, Z19); \
	SUM(k+20, Z19, Z20, Z21, Z22, Z23, Z16, Z17, Z18); \
	SUM(k+24, Z18, Z19, Z20, Z21, Z22, Z23, Z16, Z17); \
	SUM(k+28, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z16)

// ALL_ROUNDS is what a block does to the state.
#define ALL_ROUNDS() \
	ROUNDS(0);   \
	EXTEND();    \
	ROUNDS(64);  \
	EXTEND();    \
	ROUNDS(128); \
	EXTEND();    \
	ROUNDS(192)

// func compress(s *states, next *[lanes]*byte, blocks int)
TEXT ·compress(SB), NOSPLIT, $0-24
	MOVQ s+0(FP), AX
	MOVQ next+8(FP), SI
	MOVQ blocks+16(FP), BX
	XORQ CX, CX

block:
	VMOVDQU32 swap<>(SB), Z31
	LOAD(0, Z0)
	LOAD(1, Z1)
	LOAD(2, Z2)
	LOAD(3, Z3)
	LOAD(4, Z4)
	LOAD(5, Z5)
	LOAD(6, Z6)
	LOAD(7, Z7)
	LOAD(8, Z8)
	LOAD(9, Z9)
	LOAD(10, Z10)
	LOAD(11, Z11)
	LOAD(12, Z12)
	LOAD(13, Z13)
	LOAD(14, Z14)
	LOAD(15, Z15)
	TURN()

	VMOVDQU32 0(AX), Z16
	VMOVDQU32 64(AX), Z17
	VMOVDQU32 128(AX), Z18
	VMOVDQU32 192(AX), Z19
	VMOVDQU32 256(AX), Z20
	VMOVDQU32 320(AX), Z21
	VMOVDQU32 384(AX), Z22
	VMOVDQU32 448(AX), Z23

	ALL_ROUNDS()

	VPADDD 0(AX), Z16, Z16
	VPADDD 64(AX), Z17, Z17
	VPADDD 128(AX), Z18, Z18
	VPADDD 192(AX), Z19, Z19
	VPADDD 256(AX), Z20, Z20
	VPADDD 320(AX), Z21, Z21
	VPADDD 384(AX), Z22, Z22
	VPADDD 448(AX), Z23, Z23
	VMOVDQU32 Z16, 0(AX)
	VMOVDQU32 Z17, 64(AX)
	VMOVDQU32 Z18, 128(AX)
	VMOVDQU32 Z19, 192(AX)
	VMOVDQU32 Z20, 256(AX)
	VMOVDQU32 Z21, 320(AX)
	VMOVDQU32 Z22, 384(AX)
	VMOVDQU32 Z23, 448(AX)

	ADDQ $64, CX
	DECQ BX
	JNZ  block

	VZEROUPPER
	RET

// func endPair(s *states)
TEXT ·endPair(SB), NOSPLIT, $0-8
	MOVQ s+0(FP), AX
	VMOVDQU32 0(AX), Z16
	VMOVDQU32 64(AX), Z17
	VMOVDQU32 128(AX), Z18
	VMOVDQU32 192(AX), Z19
	VMOVDQU32 256(AX), Z20
	VMOVDQU32 320(AX), Z21
	VMOVDQU32 384(AX), Z22
	VMOVDQU32 448(AX), Z23

	SUMS(0)
	SUMS(32)
	SUMS(64)
	SUMS(96)
	SUMS(128)
	SUMS(160)
	SUMS(192)
	SUMS(224)

	VPADDD 0(AX), Z16, Z16
	VPADDD 64(AX), Z17, Z17
	VPADDD 128(AX), Z18, Z18
	VPADDD 192(AX), Z19, Z19
	VPADDD 256(AX), Z20, Z20
	VPADDD 320(AX), Z21, Z21
	VPADDD 384(AX), Z22, Z22
	VPADDD 448(AX), Z23, Z23
	VMOVDQU32 Z16, 0(AX)
	VMOVDQU32 Z17, 64(AX)
	VMOVDQU32 Z18, 128(AX)
	VMOVDQU32 Z19, 192(AX)
	VMOVDQU32 Z20, 256(AX)
	VMOVDQU32 Z21, 320(AX)
	VMOVDQU32 Z22, 384(AX)
	VMOVDQU32 Z23, 448(AX)

	VZEROUPPER
	RET

// func rehash(sums *[lanes]chainhash.Hash, s *states)
TEXT ·rehash(SB), NOSPLIT, $0-16
	MOVQ sums+0(FP), BX
	MOVQ s+8(FP), AX
	VMOVDQU32 0(AX), Z0
	VMOVDQU32 64(AX), Z1
	VMOVDQU32 128(AX), Z2
	VMOVDQU32 192(AX), Z3
	VMOVDQU32 256(AX), Z4
	VMOVDQU32 320(AX), Z5
	VMOVDQU32 384(AX), Z6
	VMOVDQU32 448(AX), Z7
	VPBROADCASTD padding<>+0(SB), Z8
	VPXORD Z9, Z9, Z9
	VPXORD Z10, Z10, Z10
	VPXORD Z11, Z11, Z11
	VPXORD Z12, Z12, Z12
	VPXORD Z13, Z13, Z13
	VPXORD Z14, Z14, Z14
	VPBROADCASTD padding<>+4(SB), Z15
	VPBROADCASTD initial<>+0(SB), Z16
	VPBROADCASTD initial<>+4(SB), Z17
	VPBROADCASTD initial<>+8(SB), Z18
	VPBROADCASTD initial<>+12(SB), Z19
	VPBROADCASTD initial<>+16(SB), Z20
	VPBROADCASTD initial<>+20(SB), Z21
	VPBROADCASTD initial<>+24(SB), Z22
	VPBROADCASTD initial<>+28(SB), Z23

	ALL_ROUNDS()

	VPADDD.BCST initial<>+0(SB), Z16, Z0
	VPADDD.BCST initial<>+4(SB), Z17, Z1
	VPADDD.BCST initial<>+8(SB), Z18, Z2
	VPADDD.BCST initial<>+12(SB), Z19, Z3
	VPADDD.BCST initial<>+16(SB), Z20, Z4
	VPADDD.BCST initial<>+20(SB), Z21, Z5
	VPADDD.BCST initial<>+24(SB), Z22, Z6
	VPADDD.BCST initial<>+28(SB), Z23, Z7
	VPXORD Z8, Z8, Z8
	VPXORD Z9, Z9, Z9
	VPXORD Z10, Z10, Z10
	VPXORD Z11, Z11, Z11
	VPXORD Z12, Z12, Z12
	VPXORD Z13, Z13, Z13
	VPXORD Z14, Z14, Z14
	VPXORD Z15, Z15, Z15
	VMOVDQU32 swap<>(SB), Z31
	TURN()
	VMOVDQU Y0, 0(BX)
	VMOVDQU Y1, 32(BX)
	VMOVDQU Y2, 64(BX)
	VMOVDQU Y3, 96(BX)
	VMOVDQU Y4, 128(BX)
	VMOVDQU Y5, 160(BX)
	VMOVDQU Y6, 192(BX)
	VMOVDQU Y7, 224(BX)
	VMOVDQU Y8, 256(BX)
	VMOVDQU Y9, 288(BX)
	VMOVDQU Y10, 320(BX)
	VMOVDQU Y11, 352(BX)
	VMOVDQU Y12, 384(BX)
	VMOVDQU Y13, 416(BX)
	VMOVDQU Y14, 448(BX)
	VMOVDQU Y15, 480(BX)

	VZEROUPPER
	RET
