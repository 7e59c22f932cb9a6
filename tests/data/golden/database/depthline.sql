BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE artworks (
	id CHAR(32) NOT NULL, 
	api_key_id VARCHAR(64) NOT NULL, 
	source TEXT NOT NULL, 
	image_url TEXT NOT NULL, 
	webhook TEXT, 
	parameters JSON NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	batch_key VARCHAR(16) NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	created_at DATETIME NOT NULL, 
	started_at DATETIME, 
	finished_at DATETIME, 
	attempts INTEGER NOT NULL, 
	worker VARCHAR(128), 
	lease_until DATETIME, 
	duration FLOAT NOT NULL, 
	folder TEXT NOT NULL, 
	results JSON NOT NULL, 
	error_kind VARCHAR(32), 
	error_message TEXT, 
	outcome JSON, 
	CONSTRAINT pk_artworks PRIMARY KEY (id)
);
INSERT INTO "artworks" VALUES('5da2df82d58d4890a0353706ed243778','ann','http','s3://golden/photos/e.jpg','http://127.0.0.1:36541/once','{"invertDepth": false, "resolutionLowerLimit": 256, "usePostResize": true, "useVersion3": false, "model": "tiny", "normalizationMode": "Standard"}','tiny','433d9692662c60db','succeeded','2026-11-26 11:03:42.457229','2026-11-26 11:03:42.946327','2026-11-26 11:03:43.524020',1,'golden-drain',NULL,3.89123731001745909452e-01,'depth/d38795d44bd99218/b1/b1f43128ba0c848804e9a28a4857dcb1677ff9ddb2f3ad584ad88e85b509a27d','["depth.png", "depth.json"]',NULL,NULL,'{"source_sha256": "b1f43128ba0c848804e9a28a4857dcb1677ff9ddb2f3ad584ad88e85b509a27d", "status": "succeeded", "folder": "depth/d38795d44bd99218/b1/b1f43128ba0c848804e9a28a4857dcb1677ff9ddb2f3ad584ad88e85b509a27d", "results": ["depth.png", "depth.json"], "source_width": 80, "source_height": 60, "network_width": 352, "network_height": 256, "output_width": 80, "output_height": 60, "depth_min": 0.5088441371917725, "depth_max": 0.7424778342247009, "kind": "disparity", "unit": null, "model": "tiny", "checkpoint_revision": "30a1b5e02b9974f7", "licence": "Apache-2.0", "seconds": {"download": 0.2978073749982286, "read": 1.400600012857467e-05, "decode": 0.0062391640021814965, "predict": 0.052272646003984846, "encode": 0.0003385149975656532, "write": 0.032452024999656714}, "attempts": 1, "error_kind": null, "error_message": null, "finished_at": "2026-11-26T11:03:43.490Z", "reused": false, "ends": null}');
INSERT INTO "artworks" VALUES('c3a0bc67174948aa85b462a82d4eace8','ann','http','s3://golden/photos/a.jpg','http://127.0.0.1:36541/gone','{"invertDepth": false, "resolutionLowerLimit": 256, "usePostResize": true, "useVersion3": false, "model": "tiny", "normalizationMode": "Standard"}','tiny','433d9692662c60db','succeeded','2026-11-26 11:03:42.487561','2026-11-26 11:03:42.946327','2026-11-26 11:03:43.575610',1,'golden-drain',NULL,3.14153708000958431512e-01,'depth/d38795d44bd99218/01/01d7777c533c5470669ecbbd6e3c1171fa2361e9ecace92884bca3fdb718b3e7','["depth.png", "depth.json"]',NULL,NULL,'{"source_sha256": "01d7777c533c5470669ecbbd6e3c1171fa2361e9ecace92884bca3fdb718b3e7", "status": "succeeded", "folder": "depth/d38795d44bd99218/01/01d7777c533c5470669ecbbd6e3c1171fa2361e9ecace92884bca3fdb718b3e7", "results": ["depth.png", "depth.json"], "source_width": 80, "source_height": 60, "network_width": 352, "network_height": 256, "output_width": 80, "output_height": 60, "depth_min": 0.5240504145622253, "depth_max": 0.7516303658485413, "kind": "disparity", "unit": null, "model": "tiny", "checkpoint_revision": "30a1b5e02b9974f7", "licence": "Apache-2.0", "seconds": {"download": 0.31415370800095843, "read": 0.147, "decode": 0.0451, "predict": 0.4243, "encode": 0.0008}, "attempts": 1, "error_kind": null, "error_message": null, "finished_at": "2026-11-26T11:02:24.982Z", "reused": true, "ends": null}');
INSERT INTO "artworks" VALUES('ae6f0f8dfe1b40988d53c18aa6e47421','bob','http','s3://golden/photos/c.jpg',NULL,'{"invertDepth": true, "resolutionLowerLimit": 256, "usePostResize": true, "useVersion3": true, "model": "tiny", "normalizationMode": "Standard"}','tiny','48b459e100086b46','succeeded','2026-11-26 11:03:42.491764','2026-11-26 11:03:43.022930','2026-11-26 11:03:43.855366',1,'golden-drain',NULL,4.24878420992172323167e-01,'depth/ae5c542a49f20bd3/77/77eed3c25f480f481875dfd6fac2414ffba39a8ddca8abb87644230df73ff615','["depth.png", "depth.json"]',NULL,NULL,'{"source_sha256": "77eed3c25f480f481875dfd6fac2414ffba39a8ddca8abb87644230df73ff615", "status": "succeeded", "folder": "depth/ae5c542a49f20bd3/77/77eed3c25f480f481875dfd6fac2414ffba39a8ddca8abb87644230df73ff615", "results": ["depth.png", "depth.json"], "source_width": 80, "source_height": 60, "network_width": 352, "network_height": 256, "output_width": 80, "output_height": 60, "depth_min": 0.5871415138244629, "depth_max": 0.7342662215232849, "kind": "disparity", "unit": null, "model": "tiny", "checkpoint_revision": "30a1b5e02b9974f7", "licence": "Apache-2.0", "seconds": {"download": 0.29369396900438005, "read": 3.104899951722473e-05, "decode": 0.0032700429946999066, "predict": 0.03982949399505742, "encode": 0.00023900799715192989, "write": 0.08781485800136579}, "attempts": 1, "error_kind": null, "error_message": null, "finished_at": "2026-11-26T11:03:43.766Z", "reused": false, "ends": null}');
INSERT INTO "artworks" VALUES('e503507d197c4a258662e00e7907021e','ann','http','s3://golden/photos/missing.jpg','http://127.0.0.1:36541/fine','{"invertDepth": false, "resolutionLowerLimit": 256, "usePostResize": true, "useVersion3": false, "model": "tiny", "normalizationMode": "Standard"}','tiny','433d9692662c60db','failed','2026-11-26 11:03:42.503422','2026-11-26 11:03:42.946327','2026-11-26 11:03:43.206724',1,'golden-drain',NULL,0.0,'','[]','not_found','cannot read s3://golden/photos/missing.jpg: no such object','{"source_sha256": "", "status": "failed", "folder": "", "results": [], "source_width": 0, "source_height": 0, "network_width": 0, "network_height": 0, "output_width": 0, "output_height": 0, "depth_min": null, "depth_max": null, "kind": "", "unit": null, "model": "", "checkpoint_revision": "", "licence": "", "seconds": {}, "attempts": 1, "error_kind": "not_found", "error_message": "cannot read s3://golden/photos/missing.jpg: no such object", "finished_at": "2026-11-26T11:03:43.206Z", "reused": false, "ends": null}');
INSERT INTO "artworks" VALUES('34242be19d5b411ba4dc8543e6803722','bob','http','s3://golden/photos/text.jpg',NULL,'{"invertDepth": false, "resolutionLowerLimit": 256, "usePostResize": true, "useVersion3": false, "model": "tiny", "normalizationMode": "Standard"}','tiny','433d9692662c60db','failed','2026-11-26 11:03:42.512472','2026-11-26 11:03:42.946327','2026-11-26 11:03:43.688699',1,'golden-drain',NULL,3.16027733999362681061e-01,'','[]','not_an_image','not an image: looks like text','{"source_sha256": "34242be1-9d5b-411b-a4dc-8543e6803722", "status": "failed", "folder": "depth/d38795d44bd99218/ea/eae080490582decb877f7dcabf9f83a803c8aa1d2e759fb40a873afda921b1d3", "results": [], "source_width": 0, "source_height": 0, "network_width": 0, "network_height": 0, "output_width": 0, "output_height": 0, "depth_min": null, "depth_max": null, "kind": "disparity", "unit": null, "model": "tiny", "checkpoint_revision": "30a1b5e02b9974f7", "licence": "Apache-2.0", "seconds": {"download": 0.3160277339993627}, "attempts": 1, "error_kind": "not_an_image", "error_message": "not an image: looks like text", "finished_at": "2026-11-26T11:03:43.688Z", "reused": false, "ends": null}');
INSERT INTO "artworks" VALUES('797cabeb42c7450e8bd080b6e7f8c270','inbox','s3://golden/inbox/one.json#0','s3://golden/photos/b.jpg',NULL,'{"invertDepth": false, "resolutionLowerLimit": 256, "usePostResize": true, "useVersion3": false, "model": "tiny", "normalizationMode": "Standard"}','tiny','433d9692662c60db','succeeded','2026-11-26 11:03:42.642367','2026-11-26 11:03:42.946327','2026-11-26 11:03:43.626861',1,'golden-drain',NULL,3.42374036001274362206e-01,'depth/d38795d44bd99218/a9/a9f9fa41c955a13a5d5f15961049a81d07c9f3f22574d41d808bed0f1f2d0a41','["depth.png", "depth.json"]',NULL,NULL,'{"source_sha256": "a9f9fa41c955a13a5d5f15961049a81d07c9f3f22574d41d808bed0f1f2d0a41", "status": "succeeded", "folder": "depth/d38795d44bd99218/a9/a9f9fa41c955a13a5d5f15961049a81d07c9f3f22574d41d808bed0f1f2d0a41", "results": ["depth.png", "depth.json"], "source_width": 80, "source_height": 60, "network_width": 352, "network_height": 256, "output_width": 80, "output_height": 60, "depth_min": 0.5589810013771057, "depth_max": 0.7423218488693237, "kind": "disparity", "unit": null, "model": "tiny", "checkpoint_revision": "30a1b5e02b9974f7", "licence": "Apache-2.0", "seconds": {"download": 0.34237403600127436, "read": 0.1534, "decode": 0.0363, "predict": 0.2915, "encode": 0.0595}, "attempts": 1, "error_kind": null, "error_message": null, "finished_at": "2026-11-26T11:02:24.946Z", "reused": true, "ends": null}');
INSERT INTO "artworks" VALUES('bb4f9c70dd644b54885f9d23bff28351','inbox','s3://golden/inbox/two.json#0','s3://golden/photos/d.jpg',NULL,'{"invertDepth": false, "resolutionLowerLimit": 256, "usePostResize": true, "useVersion3": false, "model": "tiny", "normalizationMode": "Standard"}','tiny','433d9692662c60db','succeeded','2026-11-26 11:03:42.673245','2026-11-26 11:03:42.946327','2026-11-26 11:03:43.684227',1,'golden-drain',NULL,0.3378533149953,'depth/d38795d44bd99218/af/afc448c4777e0ad8650df31d0e609c09e12176b7403566c8b6ddbc5bfc5e3fb7','["depth.png", "depth.json"]',NULL,NULL,'{"source_sha256": "afc448c4777e0ad8650df31d0e609c09e12176b7403566c8b6ddbc5bfc5e3fb7", "status": "succeeded", "folder": "depth/d38795d44bd99218/af/afc448c4777e0ad8650df31d0e609c09e12176b7403566c8b6ddbc5bfc5e3fb7", "results": ["depth.png", "depth.json"], "source_width": 80, "source_height": 60, "network_width": 352, "network_height": 256, "output_width": 80, "output_height": 60, "depth_min": 0.4739391803741455, "depth_max": 0.775152325630188, "kind": "disparity", "unit": null, "model": "tiny", "checkpoint_revision": "30a1b5e02b9974f7", "licence": "Apache-2.0", "seconds": {"download": 0.3378533149953, "read": 0.1933, "decode": 0.0317, "predict": 0.3884, "encode": 0.0002}, "attempts": 1, "error_kind": null, "error_message": null, "finished_at": "2026-11-26T11:02:34.863Z", "reused": true, "ends": null}');
INSERT INTO "artworks" VALUES('e9077987f0a5496b80c9f554de26d767','inbox','s3://golden/inbox/two.json#1','s3://golden/photos/missing.jpg',NULL,'{"invertDepth": false, "resolutionLowerLimit": 1024, "usePostResize": true, "useVersion3": false, "model": "tiny", "normalizationMode": "Standard"}','tiny','a23dba0edabd853b','failed','2026-11-26 11:03:42.673245','2026-11-26 11:03:43.117192','2026-11-26 11:03:43.550529',1,'golden-drain',NULL,0.0,'','[]','not_found','cannot read s3://golden/photos/missing.jpg: no such object','{"source_sha256": "", "status": "failed", "folder": "", "results": [], "source_width": 0, "source_height": 0, "network_width": 0, "network_height": 0, "output_width": 0, "output_height": 0, "depth_min": null, "depth_max": null, "kind": "", "unit": null, "model": "", "checkpoint_revision": "", "licence": "", "seconds": {}, "attempts": 1, "error_kind": "not_found", "error_message": "cannot read s3://golden/photos/missing.jpg: no such object", "finished_at": "2026-11-26T11:03:43.550Z", "reused": false, "ends": null}');
INSERT INTO "artworks" VALUES('81464c3ea1234ffaa210f0c293b4dd10','inbox','s3://golden/inbox/open.json#0','s3://golden/photos/e.jpg',NULL,'{"invertDepth": false, "resolutionLowerLimit": 1024, "usePostResize": true, "useVersion3": false, "model": "small", "normalizationMode": "Standard"}','v2/small','e40521b71c727746','starting','2026-11-26 11:03:46.390144',NULL,NULL,0,NULL,NULL,0.0,'','[]',NULL,NULL,NULL);
INSERT INTO "artworks" VALUES('214c8280d46f47bcb2079f4b2b2bf7a3','ann','http','s3://golden/photos/a.jpg',NULL,'{"invertDepth": false, "resolutionLowerLimit": 256, "usePostResize": true, "useVersion3": false, "model": "tiny", "normalizationMode": "Standard"}','tiny','433d9692662c60db','canceled','2026-11-26 11:03:45.356882',NULL,'2026-11-26 11:03:45.367171',0,NULL,NULL,0.0,'','[]',NULL,NULL,NULL);
INSERT INTO "artworks" VALUES('86c41a66efad4d0d8b0d476c2f6856e9','ann','http','s3://golden/photos/b.jpg','http://127.0.0.1:36541/fine','{"invertDepth": false, "resolutionLowerLimit": 256, "usePostResize": true, "useVersion3": false, "model": "base", "normalizationMode": "Standard"}','v2/base','34f36d535a21c323','processing','2026-11-26 11:03:45.379336','2026-11-26 11:03:45.394406',NULL,1,'golden-dead','2026-11-26 11:04:45.394406',0.0,'','[]',NULL,NULL,NULL);
INSERT INTO "artworks" VALUES('a1acb97103ff40d0a858ff67c583efd0','ann','http','s3://golden/photos/b.jpg','http://127.0.0.1:36541/fine','{"invertDepth": false, "resolutionLowerLimit": 256, "usePostResize": true, "useVersion3": true, "model": "small", "normalizationMode": "Raw"}','v3/small','c172fdc68fce877a','starting','2026-11-26 11:03:45.403914',NULL,NULL,0,NULL,NULL,0.0,'','[]',NULL,NULL,NULL);
INSERT INTO "artworks" VALUES('d9bddc8783c945199f9a2803511e0f49','ann','http','s3://golden/photos/b.jpg','http://127.0.0.1:36541/later','{"invertDepth": false, "resolutionLowerLimit": 256, "usePostResize": true, "useVersion3": false, "model": "tiny", "normalizationMode": "Standard"}','tiny','433d9692662c60db','canceled','2026-11-26 11:03:45.412568',NULL,'2026-11-26 11:03:45.421802',0,NULL,NULL,0.0,'','[]',NULL,NULL,NULL);
CREATE TABLE drains (
	worker VARCHAR(128) NOT NULL, 
	device VARCHAR(32) NOT NULL, 
	run_id VARCHAR(64) NOT NULL, 
	host VARCHAR(255) NOT NULL, 
	pid INTEGER NOT NULL, 
	started_at DATETIME NOT NULL, 
	heartbeat_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	succeeded INTEGER NOT NULL, 
	failed INTEGER NOT NULL, 
	CONSTRAINT pk_drains PRIMARY KEY (worker)
);
INSERT INTO "drains" VALUES('golden-drain','cpu','golden-run','golden',4242,'2026-11-26 11:03:42.823905','2026-11-26 11:03:44.480210','2026-11-26 11:03:44.480210',5,3);
INSERT INTO "drains" VALUES('golden-dead','cpu','golden-dead-run','golden',4242,'2026-11-26 11:03:45.386576','2026-11-26 11:03:45.386576',NULL,0,0);
CREATE TABLE idempotency_keys (
	api_key_id VARCHAR(64) NOT NULL, 
	"key" VARCHAR(255) NOT NULL, 
	body_sha256 VARCHAR(64) NOT NULL, 
	artwork_id CHAR(32) NOT NULL, 
	status_code INTEGER, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_idempotency_keys PRIMARY KEY (api_key_id, "key")
);
INSERT INTO "idempotency_keys" VALUES('ann','golden-1','54d682246a3569897e9056de7a686fec14d328d4e81b2a3cfff4d3b16eda3282','5da2df82d58d4890a0353706ed243778',202,'2026-11-26 11:03:42.457229');
INSERT INTO "idempotency_keys" VALUES('bob','golden-1','2aca5ebbbc321f9cea9bc28e7f8964b21a0e61782b525183346dfe81fc6653ea','34242be19d5b411ba4dc8543e6803722',202,'2026-11-26 11:03:42.512472');
CREATE TABLE inbox_entries (
	file_id INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	artwork_id CHAR(32) NOT NULL, 
	CONSTRAINT pk_inbox_entries PRIMARY KEY (file_id, position), 
	CONSTRAINT fk_inbox_entries_artwork_id FOREIGN KEY(artwork_id) REFERENCES artworks (id), 
	CONSTRAINT fk_inbox_entries_file_id FOREIGN KEY(file_id) REFERENCES inbox_files (id) ON DELETE CASCADE, 
	CONSTRAINT uq_inbox_entries_artwork_id UNIQUE (artwork_id)
);
INSERT INTO "inbox_entries" VALUES(1,0,'797cabeb42c7450e8bd080b6e7f8c270');
INSERT INTO "inbox_entries" VALUES(2,0,'bb4f9c70dd644b54885f9d23bff28351');
INSERT INTO "inbox_entries" VALUES(2,1,'e9077987f0a5496b80c9f554de26d767');
INSERT INTO "inbox_entries" VALUES(3,0,'81464c3ea1234ffaa210f0c293b4dd10');
CREATE TABLE inbox_files (
	id INTEGER NOT NULL, 
	path TEXT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	stamp TEXT NOT NULL, 
	is_list BOOLEAN NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_inbox_files PRIMARY KEY (id), 
	CONSTRAINT uq_inbox_files_path_sha256 UNIQUE (path, sha256)
);
INSERT INTO "inbox_files" VALUES(1,'s3://golden/inbox/one.json','8de7f1c3213d9f0b4db45ccf614c9fca6b7a3541be2e829860be8d5230f5620d','86 1795691022.0 "2f8f4ffbc5937a351ae478fbdfafd7eb"',0,'answered','2026-11-26 11:03:42.642367');
INSERT INTO "inbox_files" VALUES(2,'s3://golden/inbox/two.json','16fa5c31a1a866c5458eb5ed714cf630243fe44ae4db66924b3af75a8b2c433d','153 1795691022.0 "5d754a78f0108e2b8a3f6112e7d3f430"',1,'answered','2026-11-26 11:03:42.673245');
INSERT INTO "inbox_files" VALUES(3,'s3://golden/inbox/open.json','be3b9ad1c3ae79ef6adf506c6e180b93e1f82d29f9eaaeb614bdd8d1c25a5092','58 1795691024.0 "8411ea8ea0b2f9a8dafb866c84341d20"',0,'claimed','2026-11-26 11:03:44.657634');
CREATE TABLE stage_seconds (
	stage VARCHAR(32) NOT NULL, 
	seconds FLOAT NOT NULL, 
	artworks INTEGER NOT NULL, 
	CONSTRAINT pk_stage_seconds PRIMARY KEY (stage)
);
INSERT INTO "stage_seconds" VALUES('decode',9.50920699688140302896e-03,2);
INSERT INTO "stage_seconds" VALUES('download',1.90191013699950417503e+00,6);
INSERT INTO "stage_seconds" VALUES('encode',5.77522994717583060264e-04,2);
INSERT INTO "stage_seconds" VALUES('predict',9.21021399990422651171e-02,2);
INSERT INTO "stage_seconds" VALUES('read',4.50549996457994e-05,2);
INSERT INTO "stage_seconds" VALUES('write',1.20266883001022506505e-01,2);
CREATE TABLE transitions (
	id INTEGER NOT NULL, 
	artwork_id CHAR(32) NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	at DATETIME NOT NULL, 
	worker VARCHAR(128), 
	note TEXT NOT NULL, 
	CONSTRAINT pk_transitions PRIMARY KEY (id), 
	CONSTRAINT fk_transitions_artwork_id FOREIGN KEY(artwork_id) REFERENCES artworks (id) ON DELETE CASCADE
);
INSERT INTO "transitions" VALUES(1,'5da2df82d58d4890a0353706ed243778','starting','2026-11-26 11:03:42.457229',NULL,'http');
INSERT INTO "transitions" VALUES(2,'c3a0bc67174948aa85b462a82d4eace8','starting','2026-11-26 11:03:42.487561',NULL,'http');
INSERT INTO "transitions" VALUES(3,'ae6f0f8dfe1b40988d53c18aa6e47421','starting','2026-11-26 11:03:42.491764',NULL,'http');
INSERT INTO "transitions" VALUES(4,'e503507d197c4a258662e00e7907021e','starting','2026-11-26 11:03:42.503422',NULL,'http');
INSERT INTO "transitions" VALUES(5,'34242be19d5b411ba4dc8543e6803722','starting','2026-11-26 11:03:42.512472',NULL,'http');
INSERT INTO "transitions" VALUES(6,'797cabeb42c7450e8bd080b6e7f8c270','starting','2026-11-26 11:03:42.642367',NULL,'s3://golden/inbox/one.json#0');
INSERT INTO "transitions" VALUES(7,'bb4f9c70dd644b54885f9d23bff28351','starting','2026-11-26 11:03:42.673245',NULL,'s3://golden/inbox/two.json#0');
INSERT INTO "transitions" VALUES(8,'e9077987f0a5496b80c9f554de26d767','starting','2026-11-26 11:03:42.673245',NULL,'s3://golden/inbox/two.json#1');
INSERT INTO "transitions" VALUES(9,'5da2df82d58d4890a0353706ed243778','processing','2026-11-26 11:03:42.946327','golden-drain','');
INSERT INTO "transitions" VALUES(10,'c3a0bc67174948aa85b462a82d4eace8','processing','2026-11-26 11:03:42.946327','golden-drain','');
INSERT INTO "transitions" VALUES(11,'e503507d197c4a258662e00e7907021e','processing','2026-11-26 11:03:42.946327','golden-drain','');
INSERT INTO "transitions" VALUES(12,'34242be19d5b411ba4dc8543e6803722','processing','2026-11-26 11:03:42.946327','golden-drain','');
INSERT INTO "transitions" VALUES(13,'797cabeb42c7450e8bd080b6e7f8c270','processing','2026-11-26 11:03:42.946327','golden-drain','');
INSERT INTO "transitions" VALUES(14,'bb4f9c70dd644b54885f9d23bff28351','processing','2026-11-26 11:03:42.946327','golden-drain','');
INSERT INTO "transitions" VALUES(15,'ae6f0f8dfe1b40988d53c18aa6e47421','processing','2026-11-26 11:03:43.022930','golden-drain','');
INSERT INTO "transitions" VALUES(16,'e9077987f0a5496b80c9f554de26d767','processing','2026-11-26 11:03:43.117192','golden-drain','');
INSERT INTO "transitions" VALUES(17,'e503507d197c4a258662e00e7907021e','failed','2026-11-26 11:03:43.206724','golden-drain','not_found: cannot read s3://golden/photos/missing.jpg: no such object');
INSERT INTO "transitions" VALUES(18,'5da2df82d58d4890a0353706ed243778','succeeded','2026-11-26 11:03:43.524020','golden-drain','');
INSERT INTO "transitions" VALUES(19,'e9077987f0a5496b80c9f554de26d767','failed','2026-11-26 11:03:43.550529','golden-drain','not_found: cannot read s3://golden/photos/missing.jpg: no such object');
INSERT INTO "transitions" VALUES(20,'c3a0bc67174948aa85b462a82d4eace8','succeeded','2026-11-26 11:03:43.575610','golden-drain','');
INSERT INTO "transitions" VALUES(21,'797cabeb42c7450e8bd080b6e7f8c270','succeeded','2026-11-26 11:03:43.626861','golden-drain','');
INSERT INTO "transitions" VALUES(22,'bb4f9c70dd644b54885f9d23bff28351','succeeded','2026-11-26 11:03:43.684227','golden-drain','');
INSERT INTO "transitions" VALUES(23,'34242be19d5b411ba4dc8543e6803722','failed','2026-11-26 11:03:43.688699','golden-drain','not_an_image: not an image: looks like text');
INSERT INTO "transitions" VALUES(24,'ae6f0f8dfe1b40988d53c18aa6e47421','succeeded','2026-11-26 11:03:43.855366','golden-drain','');
INSERT INTO "transitions" VALUES(25,'81464c3ea1234ffaa210f0c293b4dd10','starting','2026-11-26 11:03:44.657634',NULL,'s3://golden/inbox/open.json#0');
INSERT INTO "transitions" VALUES(26,'214c8280d46f47bcb2079f4b2b2bf7a3','starting','2026-11-26 11:03:45.356882',NULL,'http');
INSERT INTO "transitions" VALUES(27,'214c8280d46f47bcb2079f4b2b2bf7a3','canceled','2026-11-26 11:03:45.367171',NULL,'');
INSERT INTO "transitions" VALUES(28,'86c41a66efad4d0d8b0d476c2f6856e9','starting','2026-11-26 11:03:45.379336',NULL,'http');
INSERT INTO "transitions" VALUES(29,'86c41a66efad4d0d8b0d476c2f6856e9','processing','2026-11-26 11:03:45.394406','golden-dead','');
INSERT INTO "transitions" VALUES(30,'a1acb97103ff40d0a858ff67c583efd0','starting','2026-11-26 11:03:45.403914',NULL,'http');
INSERT INTO "transitions" VALUES(31,'d9bddc8783c945199f9a2803511e0f49','starting','2026-11-26 11:03:45.412568',NULL,'http');
INSERT INTO "transitions" VALUES(32,'d9bddc8783c945199f9a2803511e0f49','canceled','2026-11-26 11:03:45.421802',NULL,'');
CREATE TABLE webhook_attempts (
	id INTEGER NOT NULL, 
	delivery_id CHAR(32) NOT NULL, 
	at DATETIME NOT NULL, 
	seconds FLOAT NOT NULL, 
	status_code INTEGER, 
	error TEXT, 
	CONSTRAINT pk_webhook_attempts PRIMARY KEY (id), 
	CONSTRAINT fk_webhook_attempts_delivery_id FOREIGN KEY(delivery_id) REFERENCES webhook_deliveries (id) ON DELETE CASCADE
);
INSERT INTO "webhook_attempts" VALUES(1,'719608dff2ea436f9b718f56ea6d39a5','2026-11-26 11:03:44.848059',6.86492169988923706114e-02,204,NULL);
INSERT INTO "webhook_attempts" VALUES(2,'29016f32970241ae85b8809fdf744be9','2026-11-26 11:03:44.848149',7.84037849953165277838e-02,500,'HTTP 500');
INSERT INTO "webhook_attempts" VALUES(3,'364504440bc6428cbf8a22567f4855a0','2026-11-26 11:03:44.866377',6.17939259973354637622e-02,410,'HTTP 410');
INSERT INTO "webhook_attempts" VALUES(4,'29016f32970241ae85b8809fdf744be9','2026-11-26 11:03:44.956764',1.46162680030101910233e-02,204,NULL);
CREATE TABLE webhook_deliveries (
	id CHAR(32) NOT NULL, 
	artwork_id CHAR(32) NOT NULL, 
	api_key_id VARCHAR(64) NOT NULL, 
	url TEXT NOT NULL, 
	host VARCHAR(255) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	created_at DATETIME NOT NULL, 
	next_attempt_at DATETIME NOT NULL, 
	lease_until DATETIME, 
	tries INTEGER NOT NULL, 
	CONSTRAINT pk_webhook_deliveries PRIMARY KEY (id), 
	CONSTRAINT fk_webhook_deliveries_artwork_id FOREIGN KEY(artwork_id) REFERENCES artworks (id) ON DELETE CASCADE
);
INSERT INTO "webhook_deliveries" VALUES('719608dff2ea436f9b718f56ea6d39a5','e503507d197c4a258662e00e7907021e','ann','http://127.0.0.1:36541/fine','127.0.0.1','delivered','2026-11-26 11:03:43.206724','2026-11-26 11:03:43.206724',NULL,1);
INSERT INTO "webhook_deliveries" VALUES('29016f32970241ae85b8809fdf744be9','5da2df82d58d4890a0353706ed243778','ann','http://127.0.0.1:36541/once','127.0.0.1','delivered','2026-11-26 11:03:43.524020','2026-11-26 11:03:44.945591',NULL,2);
INSERT INTO "webhook_deliveries" VALUES('364504440bc6428cbf8a22567f4855a0','c3a0bc67174948aa85b462a82d4eace8','ann','http://127.0.0.1:36541/gone','127.0.0.1','failed','2026-11-26 11:03:43.575610','2026-11-26 11:03:43.575610',NULL,1);
INSERT INTO "webhook_deliveries" VALUES('fb5d3e8aca9d493aa969aab6604ec564','d9bddc8783c945199f9a2803511e0f49','ann','http://127.0.0.1:36541/later','127.0.0.1','pending','2026-11-26 11:03:45.421802','2026-11-26 11:03:45.421802',NULL,0);
CREATE TABLE webhook_secrets (
	api_key_id VARCHAR(64) NOT NULL, 
	encrypted BLOB NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_webhook_secrets PRIMARY KEY (api_key_id)
);
INSERT INTO "webhook_secrets" VALUES('ann',X'674141414141427243424951704D6155364D564F6B53687A78416C506C484532376F4B4D774A30305169374B706349494A78564955384F36582D506B2D55764E4F685964587A2D54576F776C4D7064596A57724479396F67373547443137716375646B725845735942516F756B4A71345A4D397248584245483134643563514243795A463733564E4D376146','2026-11-26 11:03:44.867261');
CREATE INDEX ix_artworks_api_key_id_created_at_id ON artworks (api_key_id, created_at, id);
CREATE INDEX ix_artworks_finished_at ON artworks (finished_at);
CREATE INDEX ix_artworks_status_created_at_id ON artworks (status, created_at, id);
CREATE INDEX ix_artworks_worker ON artworks (worker);
CREATE INDEX ix_drains_heartbeat_at ON drains (heartbeat_at);
CREATE INDEX ix_idempotency_keys_created_at ON idempotency_keys (created_at);
CREATE INDEX ix_inbox_files_state ON inbox_files (state);
CREATE INDEX ix_transitions_artwork_id ON transitions (artwork_id);
CREATE INDEX ix_webhook_deliveries_artwork_id ON webhook_deliveries (artwork_id);
CREATE INDEX ix_webhook_deliveries_state_next_attempt_at ON webhook_deliveries (state, next_attempt_at);
CREATE INDEX ix_webhook_attempts_delivery_id ON webhook_attempts (delivery_id);
COMMIT;
